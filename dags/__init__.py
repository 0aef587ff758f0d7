"""Airflow graphs: order, schedule and retries. No Spark, no torch, no business rule."""

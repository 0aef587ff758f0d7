"""TorchRec models, layers, losses, metrics, the trainer and the registry. Nothing here imports Spark or Airflow."""

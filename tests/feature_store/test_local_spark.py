"""Settings of Spark on one machine."""

import pytest

from feature_store.errors import ConfigError, used_up
from feature_store.local_spark import local_spark


def test_moveline_spark_changes_and_adds_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOVELINE_SPARK", raising=False)
    usual = local_spark()
    monkeypatch.setenv("MOVELINE_SPARK", "spark.driver.memory=6g spark.driver.extraJavaOptions='-Xss4m -Da=b'")
    assert local_spark() == {**usual, "spark.driver.memory": "6g", "spark.driver.extraJavaOptions": "-Xss4m -Da=b"} != usual


@pytest.mark.parametrize("text", ["6g", "driver.memory=6g", "spark.driver.memory", "spark.driver.memory=", "spark.a='6g"])
def test_what_is_no_setting_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MOVELINE_SPARK", text)
    with pytest.raises(ConfigError, match="MOVELINE_SPARK: "):
        local_spark()


def test_a_day_too_large_for_the_memory_of_spark_says_what_to_set() -> None:
    inner = RuntimeError("SparkOutOfMemoryError: [UNABLE_TO_ACQUIRE_MEMORY] Unable to acquire 262144 bytes of memory, got 0.")
    error = ValueError("a job failed")
    error.__cause__ = inner
    assert 'MOVELINE_SPARK="spark.driver.memory=6g' in used_up(error) and used_up(ValueError("other")) == ""

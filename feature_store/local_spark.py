"""Settings of Spark on one machine, for jobs that start it themselves and for graphs that submit them; loads nothing."""

LOCAL_SPARK = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.driver.memory": "2g",
    # A local job lives for a minute: the second compiler costs more than it gives (a demo day: 82 s with it, 62 s without). The
    # first one alone gets 48 MB for its code; a long session fills that, and then the JVM compiles nothing more.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=512m",
}

"""One file a job: pure DataFrame -> DataFrame functions, then a thin main; and the command line."""

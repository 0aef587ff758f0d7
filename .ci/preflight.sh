#!/bin/sh
# Python 3.11 and Java 17 or 21, or one line that says what to install. No environment is needed to run this.
python="${PYTHON:-python3.11}"
if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
    echo "error: Python 3.11 with venv is needed and '$python' is not it: install it (Debian: apt-get install python3.11 python3.11-venv; elsewhere: pyenv install 3.11), or say make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
java="java"
[ -n "$JAVA_HOME" ] && java="$JAVA_HOME/bin/java"
version=$("$java" -version 2>&1 | sed -n 's/.*version "\(1\.\)\{0,1\}\([0-9][0-9]*\).*/\2/p' | head -n 1)
case "$version" in
    17 | 21) ;;
    *)
        echo "error: Java 17 or 21 is needed and '$java' is ${version:+Java }${version:-not there}: install it (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME to it" >&2
        exit 1
        ;;
esac

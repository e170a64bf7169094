#!/bin/sh
# Make a virtual environment in $1 and install $2 into it, with $PYTHON.
set -eu
venv=$1 what=$2
if [ -z "${PYTHON:-}" ]; then
    echo "assembler needs Python 3.11 or newer: apt-get install python3" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >/dev/null
    else
        echo "Python's venv is missing: apt-get install python3-venv" >&2
        exit 1
    fi
fi
[ -x "$venv/bin/pip" ] || "$PYTHON" -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check --retries 10 --timeout 60 -e "$what"
"$venv/bin/python" -m compileall -q assembler

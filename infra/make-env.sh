#!/bin/sh
# Writes random passwords to .env beside this file, readable by its owner alone. One that is there stays as it is.
set -eu
umask 077
file=$(dirname "$0")/.env
if [ -e "$file" ]; then
    echo "$file is there already, and stays" >&2
    exit 0
fi
secret() { od -An -N "$1" -t x1 /dev/urandom | tr -d ' \n'; }
{
    for name in POSTGRES MLFLOW_DATABASE PREFECT_DATABASE MLFLOW_ADMIN; do
        echo "${name}_PASSWORD=$(secret 24)"
    done
    echo "MLFLOW_SECRET_KEY=$(secret 32)"
    echo "PREFECT_AUTH_STRING=ganpipe:$(secret 24)"
    echo "BUCKET_ACCESS_KEY=$(secret 10)"
    echo "BUCKET_SECRET_KEY=$(secret 24)"
} >"$file.new"
mv "$file.new" "$file"
echo "wrote $file" >&2

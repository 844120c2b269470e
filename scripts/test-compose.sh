#!/usr/bin/env bash
# Runs the suite against the real servers of docker-compose.test.yml, and removes them afterwards.
# Which servers the tests use, they are told by the variables exported below.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"
cd -- "$ROOT"
need_cargo
scripts/check-compose.sh

has docker || die "make test-compose needs Docker, and docker is not installed" \
    "\`make test\` runs the suite with the servers it brings itself"
docker info >/dev/null 2>&1 || die "make test-compose needs a running Docker engine, and none answers" \
    "start it, or set DOCKER_HOST; \`docker info\` says what is wrong" \
    "\`make test\` runs the suite with the servers it brings itself"
docker compose version >/dev/null 2>&1 || die "make test-compose needs Docker's compose plugin (v2)" \
    "on Debian: docker-compose-plugin, from Docker's own packages"

s3_port=${BACKSTAY_TEST_S3_PORT:-19000}
pg15_port=${BACKSTAY_TEST_POSTGRES_15_PORT:-15415}
pg17_port=${BACKSTAY_TEST_POSTGRES_17_PORT:-15417}
my57_port=${BACKSTAY_TEST_MYSQL_57_PORT:-13357}
my8_port=${BACKSTAY_TEST_MYSQL_8_PORT:-13380}
compose() { docker compose -f docker-compose.test.yml "$@" </dev/null; }
down() {
    local status=$?
    [ $status -eq 0 ] || compose logs --tail 30 >&2 || true
    compose down --volumes --remove-orphans >/dev/null 2>&1 || true
    exit "$status"
}
trap down EXIT
trap 'exit 130' INT TERM

head_line "servers"
compose up --detach --wait --wait-timeout 180 minio postgres-15 postgres-17 mysql-57 mysql-8
compose run --rm --no-deps buckets

export BACKSTAY_TEST_S3_ENDPOINT=http://127.0.0.1:$s3_port
export BACKSTAY_TEST_S3_BUCKET=backstay-test
export BACKSTAY_TEST_S3_LOCKED_BUCKET=backstay-test-locked
export BACKSTAY_TEST_COMPOSE=1
export BACKSTAY_TEST_S3_ACCESS_KEY=backstay-test
export BACKSTAY_TEST_S3_SECRET_KEY=backstay-test-only
export AWS_ACCESS_KEY_ID=backstay-test
export AWS_SECRET_ACCESS_KEY=backstay-test-only
export AWS_REGION=us-east-1
export BACKSTAY_TEST_POSTGRES_15="host=127.0.0.1 port=$pg15_port user=backstay password=backstay-test-only dbname=backstay"
export BACKSTAY_TEST_POSTGRES_17="host=127.0.0.1 port=$pg17_port user=backstay password=backstay-test-only dbname=backstay"

export BACKSTAY_TEST_MYSQL_PASSWORD=backstay-test-only
export BACKSTAY_TEST_MYSQL_57="host=127.0.0.1 port=$my57_port user=root"
export BACKSTAY_TEST_MYSQL_8="host=127.0.0.1 port=$my8_port user=root"

head_line "tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --profile ci
else
    cargo test --locked --lib --bins --tests
fi

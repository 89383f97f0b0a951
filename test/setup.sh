#!/usr/bin/env bash
# npm run setup: all that running and testing need, on a fresh machine. Does nothing where it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  echo 'setup: installing the packages of package-lock.json (npm ci)'
  npm ci
fi

rabbitmq() {
  if [ -n "${RABBITMQ_SERVER:-}" ]; then [ -x "$RABBITMQ_SERVER" ]; return; fi
  [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] ||
    PATH="$PATH:/usr/sbin:/opt/homebrew/sbin:/usr/local/sbin" command -v rabbitmq-server
} > /dev/null

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

if [ -n "${RABBITMQ_SERVER:-}" ] && ! rabbitmq; then
  echo "setup: RABBITMQ_SERVER is not a program: $RABBITMQ_SERVER" >&2
  exit 1
fi

if ! rabbitmq; then
  if command -v apt-get > /dev/null; then
    echo 'setup: installing RabbitMQ (apt-get install rabbitmq-server); its service may start, on port 5672'
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server
  elif command -v brew > /dev/null; then
    echo 'setup: installing RabbitMQ (brew install rabbitmq)'
    brew install rabbitmq
  fi
fi

if ! rabbitmq; then
  echo 'setup: there is no rabbitmq-server, and neither apt-get nor brew to install it with. Install RabbitMQ 3.10 or' >&2
  echo '       newer (rabbitmq-server on the PATH, or its path in RABBITMQ_SERVER), or run a broker in Docker:' >&2
  echo '       docker run --rm -p 5672:5672 -p 15672:15672 rabbitmq:4-management' >&2
  exit 1
fi
echo 'setup: ready'

#!/usr/bin/env bash
# npm run setup: all that running and testing need, on a fresh machine. Does nothing where it is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  echo 'setup: installing the packages of package-lock.json (npm ci)'
  npm ci
fi

has() {
  PATH="/usr/lib/rabbitmq/bin:$PATH:/usr/sbin:/opt/homebrew/sbin:/usr/local/sbin" command -v "$1" > /dev/null
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

packages=()
has "${RABBITMQ_SERVER:-rabbitmq-server}" || packages+=(rabbitmq-server)
has openssl || packages+=(openssl) # for the tests: certificates
has ps || packages+=(procps)       # for the tests: memory

if [ "${#packages[@]}" -gt 0 ]; then
  if [ -n "${RABBITMQ_SERVER:-}" ] && ! has "$RABBITMQ_SERVER"; then
    echo "setup: RABBITMQ_SERVER is not a program: $RABBITMQ_SERVER" >&2
    exit 1
  elif has apt-get; then
    echo "setup: installing ${packages[*]} (apt-get); RabbitMQ's service may start, on port 5672"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
  elif has brew; then
    echo "setup: installing ${packages[*]/rabbitmq-server/rabbitmq} (brew)"
    brew install "${packages[@]/rabbitmq-server/rabbitmq}"
  else
    echo "setup: missing: ${packages[*]}, and neither apt-get nor brew to install with. Install RabbitMQ 3.10 or" >&2
    echo 'newer (rabbitmq-server on the PATH, or its path in RABBITMQ_SERVER), or run one in Docker: see README.md.' >&2
    exit 1
  fi
fi
echo 'setup: ready'

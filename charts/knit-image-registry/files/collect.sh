#!/bin/sh
# Asks registry.sh for a garbage collection, waits for its end and shows what was deleted.
set -eu
request=/tmp/collect.request
rm -f /tmp/collect.outcome
touch "$request"
while [ -e "$request" ]; do sleep 1; done
cat /tmp/collect.log
[ "$(cat /tmp/collect.outcome)" = done ]

#!/bin/sh
# Runs the registry and, when asked to, its garbage collection: images can be pulled meanwhile, but
# not pushed, since a layer that is just arriving belongs to no image yet and would be collected.
set -eu
here=/etc/knit-registry
request=/tmp/collect.request
say() { echo "registry.sh: $*" >&2; }

serve() {
  registry serve "$here/$1" &
  registry=$!
}
end() {
  kill -TERM "$registry" 2>/dev/null || true
  wait "$registry" || true
}
collect() {
  say "collecting garbage; pushes are refused meanwhile"
  end
  serve readonly.yml
  # shellcheck disable=SC2086 # none or one flag
  if registry garbage-collect ${KNIT_COLLECT_FLAGS:-} "$here/config.yml" >/tmp/collect.log 2>&1; then
    echo done >/tmp/collect.outcome
  else
    echo failed >/tmp/collect.outcome
  fi
  end
  serve config.yml
  say "garbage collection: $(cat /tmp/collect.outcome)"
  rm -f "$request"
}

rm -f "$request"
serve config.yml
trap 'end; exit 0' TERM INT
collected=
while kill -0 "$registry" 2>/dev/null; do
  today=$(date -u +%F)
  if [ -n "${KNIT_COLLECT_AT:-}" ] && [ "$collected" != "$today" ] &&
    [ "$(date -u +%H:%M)" = "$KNIT_COLLECT_AT" ]; then
    collected=$today
    touch "$request"
  fi
  if [ -e "$request" ]; then collect; fi
  sleep 1 &
  wait $! || true
done
say "the registry has ended"
exit 1

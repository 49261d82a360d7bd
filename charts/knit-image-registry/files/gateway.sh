#!/bin/sh
# Runs nginx and has it read its certificate again when the Secret changes. Connections that are
# open go on; a certificate that does not fit its key is reported and not taken.
set -eu
certs=/etc/knit-certs
conf=/etc/knit-registry/nginx.conf
say() { echo "gateway.sh: $*" >&2; }
# The kubelet replaces all files of a Secret at once, by pointing this link to another folder.
version() { readlink "$certs/..data" || true; }

served=$(version)
nginx -e stderr -c "$conf" -g 'daemon off;' &
nginx=$!
trap 'kill -QUIT "$nginx"; wait "$nginx"; exit 0' TERM INT QUIT
while kill -0 "$nginx" 2>/dev/null; do
  now=$(version)
  if [ "$now" != "$served" ]; then
    served=$now
    if nginx -e stderr -t -q -c "$conf"; then
      say "serving the renewed certificate"
      kill -HUP "$nginx"
    else
      say "the Secret's new certificate cannot be used; the one from before is still served"
    fi
  fi
  sleep 2 &
  wait $! || true
done
say "nginx has ended"
exit 1

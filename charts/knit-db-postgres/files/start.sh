#!/bin/sh
# Starts PostgreSQL on its volume. An empty volume gets a database first; at every start the roles
# get the passwords of their Secrets, so that a changed Secret counts after a restart.
set -eu
trap 'exit 143' TERM INT

here=/etc/knit-postgres
data=$PGDATA
say() { echo "start.sh: $*" >&2; }

# A pod that is deleted is replaced while it still ends, and both may have the volume. PostgreSQL's
# own lock file is of no use then: in another container its process is not to be seen. The lock is
# held as long as any process of the server lives, since all inherit it.
if command -v flock >/dev/null; then
  exec 9>"$data.lock"
  told=
  until flock -n 9; do
    [ -n "$told" ] || say "waits for another server on this volume to end"
    told=yes
    sleep 1
  done
else
  say "this image has no flock: nothing keeps a second server off the volume"
fi

if [ ! -e "$data/PG_VERSION" ]; then
  say "making a database in $data"
  # Made beside and renamed, so that a start which is killed on the way leaves no half of one.
  rm -rf "$data.making"
  initdb --pgdata="$data.making" --username=postgres --encoding=UTF8 --locale=C \
    --auth=reject --data-checksums >/dev/null
  mv "$data.making" "$data"
fi

have=$(cat "$data/PG_VERSION")
want=$(postgres --version | sed 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/')
if [ "$have" != "$want" ]; then
  say "the volume has a database of PostgreSQL $have, and this image is PostgreSQL $want:" \
    "set image.tag to $have; docs/how-to/charts-parts.md says how to move to $want"
  exit 1
fi

# First without the network, so that nobody meets it before its roles are as they should be.
export PGHOST=/tmp PGUSER=postgres PGDATABASE=postgres PGCTLTIMEOUT=86400
pg_ctl --pgdata="$data" --silent --wait start \
  --options="-c listen_addresses='' -c unix_socket_directories=/tmp -c hba_file=$here/pg_hba.conf"
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --file="$here/roles.sql" --output=/dev/null
if [ -e /credentials/temporal/username ]; then
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --file="$here/temporal.sql" --output=/dev/null
fi
pg_ctl --pgdata="$data" --silent --wait --mode=fast stop

exec postgres -D "$data" -c "hba_file=$here/pg_hba.conf" -c "listen_addresses=*" \
  -c unix_socket_directories=/tmp "$@"

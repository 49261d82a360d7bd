#!/bin/sh
# Makes the tables of both databases, or updates them to this version of Temporal; may be repeated.
set -eu
export SQL_PLUGIN=postgres12
for store in temporal visibility; do
  if [ "$store" = temporal ]; then SQL_DATABASE=$KNIT_DEFAULT; else SQL_DATABASE=$KNIT_VISIBILITY; fi
  export SQL_DATABASE
  temporal-sql-tool setup-schema --version 0.0
  temporal-sql-tool update-schema --schema-name "postgresql/v12/$store"
done

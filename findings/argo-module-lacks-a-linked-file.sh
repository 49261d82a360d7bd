#!/bin/sh
# The Go module of Argo Workflows does not compile on Linux as the module proxy serves it: in the
# repository workflow/executor/osspecific/signal_linux.go is a symbolic link to signal_darwin.go, and
# archives of modules have no links, so Setpgid, Wait and Kill are missing. Nothing says so before the
# compiler does. Seen with v4.0.5, Go 1.26; noted guess: a module of a released version builds.
# A copy of the module in which the link is a file builds (`go build -overlay` refuses to add a file
# below the module cache). Needs go; fetches the module and a few others through GOPROXY. Fails if the
# behaviour has changed.
set -eu
export GOFLAGS=-buildvcs=false CGO_ENABLED=0 GOOS=linux
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
go mod download -json github.com/argoproj/argo-workflows/v4@v4.0.5 > found.json
source=$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' found.json)
cp -R "$source" copy
chmod -R u+w copy
cd copy
package=./workflow/executor/osspecific
go version
ls workflow/executor/osspecific | grep signal
if go build $package 2> ../said; then
    echo "it compiles: the behaviour has changed"
    exit 1
fi
tail -n 1 ../said
grep -q "undefined: Setpgid" ../said
cp workflow/executor/osspecific/signal_darwin.go workflow/executor/osspecific/signal_linux.go
go build $package
echo "with signal_linux.go as a copy of signal_darwin.go it compiles"

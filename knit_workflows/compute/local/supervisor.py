"""Starts the small shell programs that accompany a run pod and outlive knit.

A *supervisor* holds the pod's lock, runs the pod and reports to its `state`; a *reaper* kills a pod
after its grace period. Both are POSIX `sh` (no start-up time, one megabyte), each in a session of
its own. Their descriptors: 3 what has the pod's environment, 5 and 6 the ends of the pipe for the
log, 9 the locked state; their own stderr goes to the state as well.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Final

SHELL: Final = "/bin/sh"
NICENESS: Final = 10
"""Of run pods: their share of a busy core is about a tenth of that of other processes."""

_START: Final = r"""
cd /
umask 022
set_born() { born=${20}; }
read -r line </proc/$$/stat
set_born ${line##*) }
read -r boot </proc/sys/kernel/random/boot_id
printf 'started %s %s %s\n' "$$" "$born" "$boot" >&9
folder=$1 log=$2
shift 2
while [ "$1" != -- ]; do
  for entry in "$2"/* "$2"/.[!.]* "$2"/..?*; do
    if [ -e "$entry" ] || [ -L "$entry" ]; then
      printf 'output-not-empty %s\n' "$1" >&9
      exit
    fi
  done
  shift 2
done
shift
start_copier() {
  if [ -n "$log" ]; then
    cat <&5 >"$log" 6>&- 9>&- &
    copier=$!
  fi
  exec 5<&-
}
drain() {
  exec 6>&-
  copied=0
  if [ -n "$log" ]; then
    wait "$copier"
    copied=$?
  fi
}
finish() {
  printf 'exited %s %s\n' "$1" "$copied" >&9
  exit
}
read -r asked <"$folder/stop" && [ -z "$asked" ] || exit
"""
"""Beginning of each supervisor: FOLDER LOG {PATH OUTPUT}… -- …

It claims the pod, checks that the outputs are empty, and ends if a stop was requested. PATH is the
path of an output in the pod, empty for the log; LOG is the log's file, or empty. Without a log, 6
is the null device and 5 is closed.
"""

SANDBOX: Final = (
    _START
    + r"""
start_copier
"$@" >&6 4>&9 6>&- </dev/null
code=$?
drain
finish "$code"
"""
)
"""… COMMAND… runs; it writes the number of its first process to 4, and `running` to 9."""

IN_SANDBOX: Final = 'echo running >&9; exec 2>&1 3<&- 4>&- 9>&-; exec "$@"'
"""First command inside a sandbox: reports that it runs, and becomes the user's command.

Until then stderr goes to the state, from then on to the log.
"""

CARRIED: Final = "KNIT_CARRIED_"
WITH_ENVIRONMENT: Final = rf"""
import errno, os, signal, sys
given = [os.environb.pop(b"{CARRIED}%d" % n) for n in range(int(sys.argv[1]))]
os.environb.update(one.split(b"=", 1) for one in given)
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
command = sys.argv[2:]
try:
    os.execvpe(command[0], command, os.environb)
except FileNotFoundError:
    code, why = 127, "not found"
except OSError as error:
    code, why = 126, error.strerror
    if error.errno == errno.ENOEXEC and error.filename:
        os.execv("/bin/sh", ["sh", error.filename, *command[1:]])
print(f"{{command[0]}}: {{why}}", file=sys.stderr)
sys.exit(code)
"""
"""For Python, COUNT COMMAND…: gives the command the variables of the pod, then becomes it.

They come as `KNIT_CARRIED_0=NAME=VALUE` and so on. For a shell may drop those whose names are no
names to it (`my.var`, `A-B`), and puts values of its own into others (`IFS`, `PWD`). A command line
such as that of `env` would show them to everybody on the machine.
"""

CONTAINER: Final = (
    _START
    + r"""
engine=$1 image=$2 name=$3
shift 3
find_image() {
  found=$("$engine" image inspect --format '{{.Id}}{{range .RepoDigests}} {{.}}{{end}}' \
    "$image" 2>/dev/null) && [ -n "$found" ]
}
pull() {
  "$engine" pull "$image" 2>&1 </dev/null | {
    answered= last=
    while read -r line || [ -n "$line" ]; do
      case $line in
        '') continue ;;
        *level=warning*)
          [ -n "$reported" ] || printf 'failure %.600s\n' "$line" >&9
          reported=$line ;;
        *'Pulling from '* | *': resolved'* | 'Getting image '* | 'Copying '*)
          [ -n "$answered" ] || echo answered >&9
          answered=yes ;;
      esac
      last=$line
    done
    printf %s "$last"
  }
}
answers() { "$engine" version >/dev/null 2>&1 </dev/null; }
reported= pause=2
try_later() {
  [ "$1" = "$reported" ] || printf 'failure %.600s\n' "$1" >&9
  reported=$1
  sleep "$pause"
  [ "$pause" -ge 60 ] || pause=$((pause * 2))
  until answers; do sleep 5; done
}
if ! find_image; then
  printf 'pulling %s\n' "$image" >&9
  until message=$(pull); find_image; do try_later "$message"; done
fi
case $image in
*@*)
  # It has one name per registry that it was pulled from; the requested one comes first.
  case "$found " in *"@${image##*@} "*) found="${found%% *} $image ${found#* }" ;; esac
  ;;
esac
printf 'image %s\n' "$found" >&9
reported= pause=2 refusals=0
until message=$("$engine" create "$@" 2>&1 >/dev/null </dev/fd/3); do
  message=$(printf %s "$message" | tail -n 1)
  if answers; then
    refusals=$((refusals + 1))
    if [ "$refusals" = 2 ]; then
      printf 'create-error %.600s\n' "$message" >&9
      exit
    fi
  else
    refusals=0
    try_later "$message"
  fi
  "$engine" container inspect "$name" >/dev/null 2>&1 </dev/null && break
done
exec 3<&-
start_and_attach() { "$engine" start --attach --sig-proxy=false "$name" "$@" </dev/null; }
# Without a log its last line on stderr is kept, since that may be why it has not started.
start_without_log() {
  message= code=
  told=$({ start_and_attach 2>&1 >&6 6>&-; printf '\n%s\n' "$?"; } | tail -c 700)
  while read -r line; do
    [ -z "$line" ] || { message=$code; code=$line; }
  done <<END
$told
END
}
# Without it a container whose engine went away would pass for one that has failed.
inspect_ended() {
  state=$("$engine" inspect --format \
    '{{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Running}} {{.State.Status}}' "$name" \
    2>/dev/null </dev/null)
}
start_copier
echo running >&9
if [ -n "$log" ]; then
  start_and_attach >&6 2>&1 6>&-
  code=$?
else
  start_without_log
fi
drain
if [ "$code" != 0 ]; then
  # What an engine that answers does not say it will not say later.
  until inspect_ended || { answers && { inspect_ended || :; }; }; do sleep 2; done
  printf 'container-state %s\n' "${state% *}" >&9
  case ${state##* } in
  created | configured | initialized)
    [ -z "$log" ] || message=$(tail -c 700 "$log" | tail -n 1)
    printf 'start-error %.600s\n' "${message:-the container engine gives no reason}" >&9
    ;;
  esac
fi
finish "$code"
"""
)
"""… ENGINE IMAGE NAME CREATE-ARGUMENT… : pulls the image until it is there, runs the container.

While the engine does not respond, it waits. Only an engine that responds can refuse a container,
and must do so twice, since it may have come back in between. One that went away while it created
the container may have created it. The engine reads the variables of the pod from its stdin, each
time from their beginning.
"""

KILL_LATER: Final = r"""
cd /
set_born() { born=${20}; }
sleep "$1"
read -r line </proc/$2/stat && set_born ${line##*) } && [ "$born" = "$3" ] && kill -s KILL "$2"
"""
"""SECONDS PID BORN: kills a process after that time, if it is still the same one."""

REMOVE_CONTAINER: Final = r"""
cd /
set_born() { born=${20}; }
folder=$1 engine=$2 name=$3 grace=$4
"$engine" stop --time "$grace" "$name" >/dev/null
if read -r line </proc/$5/stat && set_born ${line##*) } && [ "$born" = "$6" ]; then
  kill -s KILL -- "-$5"
fi
"$engine" rm --force "$name" >/dev/null
left=$("$engine" ps --all --quiet --filter "name=^$name\$") && [ -z "$left" ] && : >"$folder/gone"
"""
"""FOLDER ENGINE NAME GRACE PID BORN: stops a container and its supervisor, and removes it."""


def spawn(
    script: str,
    arguments: Sequence[str],
    *,
    descriptors: Mapping[int, int],
    environment: Mapping[str, str],
    by: Sequence[str] = (),
) -> int:
    """Starts a script in a session of its own and gives its process number.

    `by` is a command that becomes the shell, such as `nice`. `descriptors` maps numbers in the
    script to open descriptors here, which stay the caller's; 2 is the null device unless given.

    Raises:
        OSError: no process can be created.
    """
    with ExitStack() as stack:
        actions: list[tuple[int, int, str, int, int] | tuple[int, int, int] | tuple[int, int]] = [
            (os.POSIX_SPAWN_CLOSE, number) for number in _leaking()
        ]
        actions += [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
        for number, descriptor in descriptors.items():
            # Duplicates with high numbers, so that none is overwritten before its turn.
            copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
            stack.callback(os.close, copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, number))
        command = [*by, SHELL, "-c", script, "knit-supervisor", *arguments]
        return os.posix_spawn(
            command[0],
            command,
            dict(environment),
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            # Python ignores SIGPIPE, and whoever started it may ignore others; user code must not
            # inherit that.
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )


@cache
def _gentle() -> Sequence[str]:
    """Gives the command that lowers the priority of a process.

    What people wait for on this machine, knit's own processes and theirs, must not share the cores
    equally with many Runs. On an idle machine a Run is as fast as ever.
    """
    nice = shutil.which("nice", path=os.defpath)
    return () if nice is None else (nice, "-n", str(NICENESS))


def _leaking() -> list[int]:
    """Gives the inheritable descriptors of this process, which user code must not get."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            number = int(entry.name)
            if number > 2 and os.get_inheritable(number):
                found.append(number)
    return found


def spawn_supervisor(
    folder: Path,
    script: str,
    arguments: Sequence[str],
    *,
    state: int,
    private: bytes,
    with_log: bool,
    environment: Mapping[str, str],
) -> int:
    """Starts a supervisor, which inherits the lock that `state` holds.

    `arguments` are those of the script after FOLDER. `private` has the pod's environment, which
    must appear neither on a command line, where everybody can read it, nor on the disk.
    """
    with ExitStack() as stack:
        descriptors = {2: state, 9: state}
        descriptors[3] = os.memfd_create("knit-private")
        stack.callback(os.close, descriptors[3])
        os.write(descriptors[3], private)
        os.lseek(descriptors[3], 0, os.SEEK_SET)
        if with_log:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, reading)
            descriptors[5] = reading
        else:
            writing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        stack.callback(os.close, writing)
        descriptors[6] = writing
        return spawn(
            script,
            [str(folder), *arguments],
            descriptors=descriptors,
            environment=environment,
            by=_gentle(),
        )

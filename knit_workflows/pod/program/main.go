// Command knit-pod is what knit runs where no interpreter can be assumed: in front of a Plan's
// command, and beside it. It is linked statically and uses the standard library only.
//
//	knit-pod check --as [OUTPUT FOLDER]... succeeds if all are empty folders; opens them to all users
//	knit-pod check FOLDER...               the same, as older workers ask for it
//	knit-pod record SHARE LOG [OUTPUT FOLDER]...
//	                                       puts itself into SHARE, then writes the log
//	knit-pod admit SHARE [OUTPUT FOLDER]...
//	                                       the same without a log: ends when the command starts
//	knit-pod ready SHARE                   waits until `record` or `admit` can be reached
//	knit-pod run SHARE N FOLDER{N} COMMAND...
//	                                       runs the command, and sends its output to `record`
//	knit-pod exec SHARE N FOLDER{N} COMMAND...
//	                                       asks `admit`, and becomes the command
//
// See docs/decisions/0027 and 0036.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"unicode/utf8"
)

const (
	exitWrongUse = 2
	// What container runtimes give for a command that cannot be started.
	exitCannotStart = 128
	// Of the 64 MiB that a container of knit's may use, pages of the log included.
	memoryBytes = 40 << 20
)

func main() {
	// Two or three buffers are all there is, but for a scan: memory is seldom worth a collection.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(memoryBytes)
	os.Exit(dispatch(os.Args[1:]))
}

func dispatch(words []string) int {
	if len(words) > 0 {
		verb, rest := words[0], words[1:]
		switch {
		case verb == "check" && len(rest) > 2 && rest[0] == "--as" && len(rest)%2 == 1:
			return check(pairs(rest[1:]))
		case verb == "check" && len(rest) > 0:
			return check(asThemselves(rest))
		case verb == "record" && len(rest) >= 2 && len(rest)%2 == 0:
			return record(rest[0], rest[1], pairs(rest[2:]))
		case verb == "admit" && len(rest) >= 1 && len(rest)%2 == 1:
			return admit(rest[0], pairs(rest[1:]))
		case verb == "ready" && len(rest) == 1:
			return ready(rest[0])
		case (verb == "run" || verb == "exec") && len(rest) >= 3:
			start := run
			if verb == "exec" {
				start = become
			}
			n, err := strconv.Atoi(rest[1])
			if err == nil && n >= 0 && len(rest) > 2+n {
				return start(rest[0], rest[2:2+n], rest[2+n:])
			}
		}
	}
	report("knit-pod: wrong arguments; see the head of its source.")
	return exitWrongUse
}

type output struct{ path, folder string }

func pairs(words []string) []output {
	var found []output
	for i := 0; i < len(words); i += 2 {
		found = append(found, output{words[i], words[i+1]})
	}
	return found
}

func asThemselves(folders []string) []output {
	var found []output
	for _, folder := range folders {
		found = append(found, output{folder, folder})
	}
	return found
}

func foldersOf(outputs []output) []string {
	var found []string
	for _, each := range outputs {
		found = append(found, each.folder)
	}
	return found
}

// Kubernetes makes this file, and shows its content beside the container's exit code.
var terminationLog = "/dev/termination-log"

const (
	terminationBytes = 4096
	leastLineBytes   = 80 // less of a line says nothing
)

func init() {
	if path := os.Getenv("KNIT_TERMINATION_LOG"); path != "" && os.Getpid() != 1 {
		terminationLog = path // for tests
	}
}

// report says on stderr and in the termination log why this container ends.
func report(sentence string) {
	fmt.Fprintln(os.Stderr, sentence)
	writeTerminationLog(sentence)
}

// writeTerminationLog never creates the file: outside a pod it must not appear.
func writeTerminationLog(text string) {
	file, err := os.OpenFile(terminationLog, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return
	}
	defer file.Close()
	file.WriteString(text[:min(len(text), terminationBytes)])
}

// writeNotes writes as much of these lines as Kubernetes shows: of each its share, and what others
// leave of theirs. As knit_workflows/pod/termination.py.
func writeNotes(lines []string) {
	text := ""
	for at, line := range lines {
		room := terminationBytes - len(text)
		share := max(room/(len(lines)-at), leastLineBytes)
		if room < min(share, len(line)+1) {
			break
		}
		for _, later := range lines[at+1:] {
			room -= min(share, len(later)+1)
		}
		text += cut(line, max(room, share)-1) + "\n"
	}
	if text != "" {
		writeTerminationLog(text)
	}
}

// cut shortens a line to so many bytes, at a character.
func cut(line string, most int) string {
	if len(line) <= most {
		return line
	}
	end := most - len("…")
	for end > 0 && !utf8.RuneStart(line[end]) {
		end--
	}
	return line[:end] + "…"
}

// Command knit-pod is what knit runs where no interpreter can be assumed: in front of a Plan's
// command, and beside it. It is linked statically and uses the standard library only.
//
//	knit-pod check FOLDER...               succeeds if all are empty folders; opens them to all users
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
)

const (
	exitWrongUse = 2
	// What container runtimes give for a command that cannot be started.
	exitCannotStart = 128
)

func main() {
	// Two or three buffers are all there is: memory is not worth a collection.
	debug.SetGCPercent(400)
	os.Exit(dispatch(os.Args[1:]))
}

func dispatch(words []string) int {
	if len(words) > 0 {
		verb, rest := words[0], words[1:]
		switch {
		case verb == "check" && len(rest) > 0:
			return check(rest)
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

// Kubernetes makes this file, and shows its content beside the container's exit code.
var terminationLog = "/dev/termination-log"

const terminationBytes = 4096

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

// writeNotes writes as many whole lines as Kubernetes shows.
func writeNotes(lines []string) {
	text := ""
	for _, line := range lines {
		if len(text)+len(line)+1 > terminationBytes {
			break
		}
		text += line + "\n"
	}
	if text != "" {
		writeTerminationLog(text)
	}
}

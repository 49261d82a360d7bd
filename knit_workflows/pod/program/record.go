package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
)

// record writes one container's output to the file LOG/log as it comes, and to the disk at its end.
// Then it scans the outputs. What cannot be kept of them, and what is missing in the log, are notes
// in the termination log. A log that cannot be written is no failure: the Run has its results.
//
// Exit codes: 0, or 1 if the share cannot be used, or the command may not start.
func record(share, log string, outputs []output) int {
	connection := meet(share)
	if connection < 0 || !permit(connection, []string{log}, outputs) {
		return 1
	}
	return follow(connection, log, outputs)
}

// admit lets the command start if the outputs are empty, and has nothing more to do then.
func admit(share string, outputs []output) int {
	connection := meet(share)
	if connection < 0 || !permit(connection, nil, outputs) {
		return 1
	}
	return 0
}

// meet waits for the other container; below 0: it cannot come.
func meet(share string) (connection int) {
	var connected atomic.Bool
	endBeforeStart(&connected)
	listener, err := provide(share)
	if err != nil {
		report("knit-pod: the program cannot be provided: " + reason(err))
		return -1
	}
	if connection = accept(listener); connection < 0 {
		report("knit-pod: nobody can connect.")
		return -1
	}
	connected.Store(true)
	// One connection, made before the command starts: nothing else in that container gets one.
	syscall.Close(listener)
	os.Remove(socketIn(share))
	return connection
}

// permit tells the other container whether its command may start: if all folders are empty.
func permit(connection int, folders []string, outputs []output) bool {
	ofOutputs := foldersOf(outputs)
	why := named(firstProblem(append(folders, ofOutputs...)), outputs)
	if why == "" {
		open(ofOutputs)
	}
	descriptor(connection).Write([]byte("-" + why))
	syscall.Shutdown(connection, syscall.SHUT_WR)
	if why != "" {
		report(why) // as the other container does: what fails is this one
	}
	return why == ""
}

func follow(connection int, log string, outputs []output) int {
	file := newLogFile(filepath.Join(log, "log"))
	buffer := make([]byte, 256<<10)
	for {
		n, err := descriptor(connection).Read(buffer)
		if n > 0 {
			file.write(buffer[:n])
		}
		if err != nil {
			if err != io.EOF {
				file.problem = err
			}
			break
		}
	}
	notes := file.finish()
	for _, each := range outputs {
		if note := scanNote(each.path, scanFolder(each.folder)); note != "" {
			notes = append(notes, note)
		}
	}
	writeNotes(notes)
	return 0
}

// named puts the path that the Plan gives an output in the place of where it is mounted here.
func named(why string, outputs []output) string {
	for _, each := range outputs {
		if len(why) > len(each.folder) && why[:len(each.folder)+1] == each.folder+" " {
			return each.path + why[len(each.folder):]
		}
	}
	return why
}

func accept(listener int) int {
	for {
		connection, _, err := syscall.Accept4(listener, syscall.SOCK_CLOEXEC)
		if err == nil {
			return connection
		}
		if err != syscall.EINTR && err != syscall.ECONNABORTED {
			return -1
		}
	}
}

// endBeforeStart makes SIGTERM end this process while the other container has not started, and
// only then: afterwards its last output is still to come.
func endBeforeStart(connected *atomic.Bool) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for range signals {
			if !connected.Load() {
				os.Exit(0)
			}
		}
	}()
}

// logFile is the log as it grows. What cannot be written is counted, and marked where it is missing.
type logFile struct {
	file    *os.File
	missing int64 // bytes since the last one that was written
	lost    int64 // bytes, in all
	problem error // the first
	inLine  bool
}

func newLogFile(path string) *logFile {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		err = file.Chmod(0o644)
	}
	return &logFile{file: file, problem: err}
}

func (log *logFile) write(content []byte) {
	if log.missing > 0 && !log.mark() {
		log.lose(int64(len(content)), log.problem)
		return
	}
	n, err := 0, error(fs.ErrInvalid)
	if log.file != nil {
		n, err = log.file.Write(content)
	}
	if n > 0 {
		log.inLine = content[n-1] != '\n'
	}
	if err != nil {
		log.lose(int64(len(content)-n), err)
	}
}

func (log *logFile) lose(bytes int64, err error) {
	log.missing += bytes
	log.lost += bytes
	if log.problem == nil {
		log.problem = err
	}
}

// mark says in the log itself how much is missing here; false if that cannot be written either.
func (log *logFile) mark() bool {
	if log.file == nil {
		return false
	}
	text := fmt.Sprintf("[knit: %s not recorded: %s]\n", size(log.missing), reason(log.problem))
	if log.inLine {
		text = "\n" + text
	}
	end, err := log.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return false
	}
	if _, err = log.file.WriteString(text); err != nil {
		log.file.Truncate(end) // no half sentence
		log.file.Seek(end, io.SeekStart)
		return false
	}
	log.missing, log.inLine = 0, false
	return true
}

// finish brings the log to the disk, and gives notes on what is missing in it.
func (log *logFile) finish() []string {
	if log.missing > 0 {
		log.mark()
	}
	if log.file != nil {
		if err := log.file.Sync(); err != nil && log.problem == nil {
			log.problem = err
		}
		if err := log.file.Close(); err != nil && log.problem == nil {
			log.problem = err
		}
	}
	if log.problem == nil {
		return nil
	}
	if log.lost > 0 {
		return []string{fmt.Sprintf("log: it is incomplete, %s not recorded: %s", size(log.lost), reason(log.problem))}
	}
	if errors.Is(log.problem, fs.ErrExist) || log.file == nil {
		return []string{"log: it cannot be written: " + reason(log.problem)}
	}
	return []string{"log: it may be incomplete: " + reason(log.problem)}
}

func size(bytes int64) string {
	switch {
	case bytes == 1:
		return "1 byte"
	case bytes < 1<<10:
		return fmt.Sprintf("%d bytes", bytes)
	case bytes < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	case bytes < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}

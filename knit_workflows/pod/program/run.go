package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	pipeBytes = 1 << 20
	// How long processes are waited for that nothing can kill.
	lastPatience    = 2 * time.Second
	setPipeSize     = 1031 // F_SETPIPE_SZ
	accessWriteExec = 3    // W_OK | X_OK
)

// run is the first process of the Plan's container. It starts the command, and passes what the
// command and all its descendants write to `record`, and to the container's own stdout.
//
// The exit code is the command's, 128 + n if signal n killed it, or 128 if it cannot be started.
func run(share string, outputs, command []string) int {
	connection, code := ask(share)
	if code != 0 {
		return code
	}
	read, stdout, err := takeOver()
	if err != nil {
		report("knit-pod: no pipe for the output: " + reason(err))
		return exitCannotStart
	}
	passing := &passage{ended: make(chan struct{})}
	go passing.copy(descriptor(read), descriptor(connection), descriptor(stdout))
	warn(outputs)
	code, message := supervise(command)
	release()
	passing.wait()
	if message != "" {
		writeTerminationLog(message)
	}
	return code
}

// become is `run` for a Plan without a log: from the start of the command on it is as if nothing had
// been in front of it. Returns only if the command cannot be started.
func become(share string, outputs, command []string) int {
	if _, code := ask(share); code != 0 { // its end of the connection closes with `exec`
		return code
	}
	warn(outputs)
	path, err := lookUp(command[0])
	if err == nil {
		err = lower(syscall.Exec(path, command, os.Environ()))
	}
	report(cannotStart(command, err))
	return exitCannotStart
}

// ask gives the connection to `record` or `admit`, or the code with which this container ends if its
// command may not start.
func ask(share string) (connection, code int) {
	connection, why := connect(share)
	switch {
	case why == "":
		return connection, 0
	case connection < 0:
		code = exitCannotStart
	default:
		code = 1
	}
	// As if the command had failed: the reason is the container's message.
	report(why)
	return connection, code
}

func cannotStart(command []string, err error) string {
	return fmt.Sprintf("exec: %q: %s", command[0], err)
}

// takeOver makes a pipe stdout and stderr, of this process too: programs write to /proc/1/fd/1.
// One pipe for both keeps the order in which they were written to.
func takeOver() (read, stdout int, err error) {
	stdout, err = syscall.Dup(1)
	if err != nil {
		return 0, 0, err
	}
	syscall.CloseOnExec(stdout)
	ends := make([]int, 2)
	if err = syscall.Pipe2(ends, syscall.O_CLOEXEC); err != nil {
		return 0, 0, err
	}
	// Refused when the user has many; then writers wait more often.
	syscall.Syscall(syscall.SYS_FCNTL, uintptr(ends[0]), setPipeSize, pipeBytes)
	for _, standard := range []int{1, 2} {
		if err = syscall.Dup3(ends[1], standard, 0); err != nil {
			return 0, 0, err
		}
	}
	return ends[0], stdout, syscall.Close(ends[1])
}

// release closes this process's own ends of the pipe; it ends when all writers have.
func release() {
	null, err := syscall.Open("/dev/null", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	for _, standard := range []int{1, 2} {
		if err == nil {
			syscall.Dup3(null, standard, 0)
		} else {
			syscall.Close(standard)
		}
	}
}

// passage copies what comes through the pipe.
type passage struct {
	waitsSince atomic.Int64 // for a writer; 0 while it writes itself
	ended      chan struct{}
}

// copy ends when there are no writers. A reader that has gone away does not end it: the other one,
// and the command, go on.
func (p *passage) copy(from descriptor, readers ...io.Writer) {
	defer close(p.ended)
	buffer := make([]byte, 64<<10)
	for {
		p.waitsSince.Store(time.Now().UnixNano())
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.waitsSince.Store(0)
		for at, to := range readers {
			if to == nil {
				continue
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				readers[at] = nil
			}
		}
	}
}

// wait returns when all has been passed on. Only for writers that nothing can kill it does not
// wait, once they have been silent for a while.
func (p *passage) wait() {
	for {
		select {
		case <-p.ended:
			return
		case <-time.After(lastPatience / 10):
			since := p.waitsSince.Load()
			if since != 0 && time.Now().UnixNano()-since > int64(lastPatience) {
				return
			}
		}
	}
}

// warn says which outputs the user of this image cannot write to, before the command finds out.
func warn(outputs []string) {
	for _, path := range outputs {
		if syscall.Access(path, accessWriteExec) == nil {
			continue
		}
		var found syscall.Stat_t
		syscall.Stat(path, &found)
		fmt.Fprintf(os.Stderr, "[knit: the user %d of this image may not write to %s, which belongs to "+
			"%d:%d with mode %o, and knit was not allowed to change that]\n",
			os.Getuid(), path, found.Uid, found.Gid, found.Mode&0o7777)
	}
}

func supervise(command []string) (code int, message string) {
	path, err := lookUp(command[0])
	if err != nil {
		return exitCannotStart, cannotStart(command, err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals) // all that can be caught
	child, err := syscall.ForkExec(path, command, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		// A group of its own: `kill 0` in the command must not come back as a signal to forward.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return exitCannotStart, cannotStart(command, lower(err))
	}
	go forward(signals, child)
	status := reapUntil(child)
	killTheRest()
	if status.Signaled() {
		return 128 + int(status.Signal()), ""
	}
	return status.ExitStatus(), ""
}

func forward(signals <-chan os.Signal, child int) {
	for each := range signals {
		switch each {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE: // ours, or the runtime's
		default:
			syscall.Kill(child, each.(syscall.Signal))
		}
	}
}

// reapUntil waits for the child, and for all orphans that the kernel gives to the first process.
func reapUntil(child int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if pid == child && (status.Exited() || status.Signaled()) {
			return status
		}
		if err != nil && err != syscall.EINTR {
			return 0
		}
	}
}

// killTheRest does what the kernel does when the first process of a container ends; done before
// that, everything that was written is read.
func killTheRest() {
	if os.Getpid() != 1 {
		return
	}
	syscall.Kill(-1, syscall.SIGKILL)
	reaped := make(chan struct{})
	go func() {
		for {
			if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil && err != syscall.EINTR {
				close(reaped)
				return
			}
		}
	}()
	select {
	case <-reaped:
	case <-time.After(lastPatience):
	}
}

// lookUp finds the command as container runtimes do, in the words of theirs.
func lookUp(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, startable(name)
	}
	var refused error
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		if folder == "" {
			folder = "."
		}
		path := filepath.Join(folder, name)
		err := startable(path)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, syscall.EACCES) {
			refused = err
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", errors.New("executable file not found in $PATH")
}

func startable(path string) error {
	found, err := os.Stat(path)
	if err != nil {
		return lower(err)
	}
	if found.IsDir() {
		return errors.New("is a directory")
	}
	if found.Mode()&0o111 == 0 {
		return syscall.EACCES
	}
	return nil
}

func lower(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

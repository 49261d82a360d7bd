package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// The share is a folder that both containers mount, the Plan's one read-only.
func programIn(share string) string { return filepath.Join(share, "knit-pod") }
func socketIn(share string) string  { return filepath.Join(share, "log") }

const (
	readyPause    = 5 * time.Millisecond
	readyPatience = 60 * time.Second
)

// ready returns when the program and the socket are in the share: only then may the Plan's
// container start. It is the postStart hook of `record` and `admit`.
func ready(share string) int {
	for begun := time.Now(); time.Since(begun) < readyPatience; time.Sleep(readyPause) {
		if _, err := os.Stat(socketIn(share)); err == nil {
			return 0
		}
	}
	report("knit-pod: knit's container is not ready after a minute.")
	return 1
}

// provide puts this program into the share and listens there. What is there is complete.
func provide(share string) (listener int, err error) {
	if err = copyProgram(programIn(share)); err != nil {
		return -1, err
	}
	if listener, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	making := socketIn(share) + ".making"
	os.Remove(making)
	if err = syscall.Bind(listener, &syscall.SockaddrUnix{Name: making}); err != nil {
		return -1, err
	}
	if err = os.Chmod(making, 0o777); err != nil { // the Plan's container has any user
		return -1, err
	}
	if err = syscall.Listen(listener, 1); err != nil {
		return -1, err
	}
	return listener, os.Rename(making, socketIn(share))
}

func copyProgram(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	os.Remove(to)
	copied, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o555)
	if err != nil {
		return err
	}
	defer copied.Close()
	if _, err = io.Copy(copied, from); err != nil {
		return err
	}
	return copied.Chmod(0o555) // whatever the umask
}

// connect reaches `record` or `admit`, and asks whether the command may start; why says that it may not.
func connect(share string) (connection int, why string) {
	connection, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, "knit's container cannot be reached: " + reason(err)
	}
	for begun := time.Now(); ; time.Sleep(readyPause) {
		err = syscall.Connect(connection, &syscall.SockaddrUnix{Name: socketIn(share)})
		if err == nil {
			break
		}
		// Refused: who made the socket is dead.
		if err == syscall.ECONNREFUSED || time.Since(begun) > readyPatience {
			return -1, "knit's container cannot be reached: " + reason(err)
		}
	}
	answer, err := io.ReadAll(io.LimitReader(descriptor(connection), terminationBytes))
	if err != nil || len(answer) == 0 {
		return -1, "knit's container has gone away"
	}
	return connection, string(answer[1:])
}

// descriptor reads and writes a file by its number, blocking; Go's own files would be made
// non-blocking, and change how the program on the other end of a pipe sees it.
type descriptor int

func (fd descriptor) Read(buffer []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), buffer)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (fd descriptor) Write(content []byte) (written int, err error) {
	for written < len(content) {
		n, err := syscall.Write(int(fd), content[written:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return written, err
		}
		if n == 0 {
			return written, fmt.Errorf("nothing was written")
		}
		written += n
	}
	return written, nil
}

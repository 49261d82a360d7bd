package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
	"unsafe"
)

// As knit_workflows/archive/scan.py, which scans the outputs of Runs on one machine and of Plans
// whose command is not known; a test compares the two.
const (
	maxNamed     = 20
	maxEntries   = 200_000
	maxScan      = 2 * time.Second
	maxNameChars = 120
	// Bytes of the names of folders that wait to be visited; the one in Python has the room.
	maxWaiting = 16 << 20
)

type entry struct{ path, kind string }

type scan struct {
	entries    int
	waiting    int // bytes, see maxWaiting
	leftOut    []entry
	kinds      map[string]int
	incomplete string
	deadline   time.Time
}

var errEnough = errors.New("enough")

func scanFolder(root string) *scan {
	found := &scan{kinds: map[string]int{}, deadline: time.Now().Add(maxScan)}
	fd, err := openFolder(-1, root)
	if err != nil {
		found.failed(err, "")
		return found
	}
	found.walk(fd, "")
	found.sortLeftOut()
	return found
}

// openFolder opens by the descriptor of the folder above: a path may be longer than PATH_MAX, and
// no link is followed.
func openFolder(above int, name string) (int, error) {
	const flags = syscall.O_RDONLY | syscall.O_DIRECTORY | syscall.O_CLOEXEC
	if above < 0 {
		return syscall.Open(name, flags, 0)
	}
	return syscall.Openat(above, name, flags|syscall.O_NOFOLLOW, 0)
}

// walk visits a folder and closes it; an error ends the scan.
func (s *scan) walk(fd int, path string) error {
	folder := os.NewFile(uintptr(fd), "folder")
	defer folder.Close()
	subfolders, err := s.look(folder, path)
	if err != nil {
		if err != errEnough {
			s.failed(err, path)
		}
		return err
	}
	for _, name := range subfolders {
		s.waiting -= waitingBytes(name)
		below := filepath.Join(path, name)
		inner, err := openFolder(fd, name)
		if err != nil {
			s.failed(err, below)
			continue
		}
		if err := s.walk(inner, below); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) look(folder *os.File, path string) (subfolders []string, err error) {
	for {
		some, err := folder.ReadDir(1000)
		for _, each := range some {
			if each.Name() == lostAndFound && path == "" {
				if !isTopOfFileSystem(int(folder.Fd())) {
					if err := s.count(); err != nil {
						return nil, err
					}
					s.leaveOut(each.Name(), "folder of the file system")
				}
				continue
			}
			if err := s.count(); err != nil {
				return nil, err
			}
			if each.IsDir() {
				if err := s.wait(each.Name()); err != nil {
					return nil, err
				}
				subfolders = append(subfolders, each.Name())
			} else if kind := leftOutKind(each.Type()); kind != "" {
				s.leaveOut(filepath.Join(path, each.Name()), kind)
			}
		}
		if err != nil {
			if err.Error() == "EOF" {
				slices.Sort(subfolders)
				return subfolders, nil
			}
			return nil, err
		}
	}
}

func (s *scan) count() error {
	if s.entries >= maxEntries {
		s.incomplete = "it has more than " + thousands(maxEntries) + " entries"
		return errEnough
	}
	if s.entries%256 == 0 && time.Now().After(s.deadline) {
		s.incomplete = "it takes too long, after " + thousands(s.entries) + " entries"
		return errEnough
	}
	s.entries++
	return nil
}

// wait notes that the name of a folder is kept until it is visited.
func (s *scan) wait(name string) error {
	s.waiting += waitingBytes(name)
	if s.waiting > maxWaiting {
		s.incomplete = "it has too many folders, after " + thousands(s.entries) + " entries"
		return errEnough
	}
	return nil
}

func waitingBytes(name string) int { return len(name) + int(unsafe.Sizeof(name)) }

func (s *scan) leaveOut(path, kind string) {
	s.kinds[kind]++
	s.leftOut = append(s.leftOut, entry{path, kind})
	if len(s.leftOut) > 2*maxNamed {
		s.sortLeftOut()
	}
}

// sortLeftOut keeps the first in the order of names.
func (s *scan) sortLeftOut() {
	slices.SortFunc(s.leftOut, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	s.leftOut = s.leftOut[:min(len(s.leftOut), maxNamed)]
}

func (s *scan) failed(err error, path string) {
	if s.incomplete == "" {
		s.incomplete = reason(err)
		if path != "" {
			s.incomplete = shown(path) + ": " + s.incomplete
		}
	}
}

// leftOutKind names what cannot be Data: a socket is meaningless without its process, a device
// without its machine.
func leftOutKind(mode os.FileMode) string {
	switch {
	case mode&os.ModeSocket != 0:
		return "socket"
	case mode&os.ModeCharDevice != 0:
		return "character device"
	case mode&os.ModeDevice != 0:
		return "block device"
	case mode.IsRegular(), mode.IsDir(), mode&(os.ModeSymlink|os.ModeNamedPipe) != 0:
		return ""
	}
	return "special file"
}

// isTopOfFileSystem says whether `lost+found` in this folder can be mkfs's.
func isTopOfFileSystem(folder int) bool {
	var here, above syscall.Stat_t
	if syscall.Fstat(folder, &here) != nil {
		return true
	}
	if syscall.Stat(fmt.Sprintf("/proc/self/fd/%d/..", folder), &above) != nil {
		return true
	}
	return above.Dev != here.Dev || above.Ino == here.Ino
}

// scanNote gives one line, or none if there is nothing to say.
func scanNote(path string, found *scan) string {
	var parts []string
	many := 0
	for _, each := range found.kinds {
		many += each
	}
	if many > 0 {
		verb := "are"
		if many == 1 {
			verb = "is"
		}
		parts = append(parts, fmt.Sprintf("%s %s not kept: %s", counted(found.kinds), verb, listed(found.leftOut, many)))
	}
	if found.incomplete != "" {
		parts = append(parts, "it was not scanned to the end: "+found.incomplete)
	}
	if len(parts) == 0 {
		return ""
	}
	return "output " + path + ": " + strings.Join(parts, "; ")
}

func counted(kinds map[string]int) string {
	var parts []string
	for kind, many := range kinds {
		ending := "s"
		if many == 1 {
			ending = ""
		}
		parts = append(parts, thousands(many)+" "+kind+ending)
	}
	slices.SortFunc(parts, func(a, b string) int {
		_, a, _ = strings.Cut(a, " ")
		_, b, _ = strings.Cut(b, " ")
		return cmp.Compare(a, b)
	})
	if len(parts) < 2 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]
}

func listed(found []entry, many int) string {
	var names []string
	for _, each := range found {
		names = append(names, shown(each.path))
	}
	text := strings.Join(names, ", ")
	if more := many - len(names); more > 0 {
		text += " and " + thousands(more) + " more"
	}
	return text
}

// shown formats a path as one line; a long one is cut at its beginning.
func shown(path string) string {
	var text strings.Builder
	for rest := path; rest != ""; {
		char, width := utf8.DecodeRuneInString(rest)
		switch {
		case char == utf8.RuneError && width == 1:
			fmt.Fprintf(&text, `\x%02x`, rest[0])
		case unicode.IsPrint(char):
			text.WriteRune(char)
		default:
			text.WriteString(strings.Trim(strconv.QuoteToASCII(string(char)), `"`))
		}
		rest = rest[width:]
	}
	chars := []rune(text.String())
	if len(chars) <= maxNameChars {
		return string(chars)
	}
	return "…" + string(chars[len(chars)-maxNameChars:])
}

func thousands(number int) string {
	text := strconv.Itoa(number)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// mkfs makes it at the top of a disk; it belongs to the file system and is never Data.
const lostAndFound = "lost+found"

// check keeps a Run from writing into Data that exists already, and finds outputs that share one
// volume.
func check(outputs []output) int {
	folders := foldersOf(outputs)
	if why := named(firstProblem(folders), outputs); why != "" {
		report(why)
		return 1
	}
	open(folders)
	return 0
}

// firstProblem says in one sentence which folder is not empty; "" if all are.
func firstProblem(folders []string) string {
	for _, folder := range folders {
		if why := problem(folder); why != "" {
			return why
		}
	}
	return ""
}

func problem(path string) string {
	entries, err := entriesOf(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path + " does not exist."
	case errors.Is(err, syscall.ENOTDIR):
		return path + " is not a folder."
	case err != nil:
		return fmt.Sprintf("%s cannot be read: %s.", path, reason(err))
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() != lostAndFound || !entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is not empty: it has '%s' in it. Outputs and logs must start empty.",
		path, shown(slices.Min(names)))
}

// entriesOf reads few entries: a folder with a million is not empty either.
func entriesOf(path string) ([]os.DirEntry, error) {
	folder, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	entries, err := folder.ReadDir(1000)
	if err != nil && len(entries) == 0 && err.Error() != "EOF" {
		return nil, err
	}
	return entries, nil
}

// open lets any user write into fresh volumes: their tops are often root's, and the user of an image
// is known to nobody before it runs. Where it may not, `run` says what the consequence is.
func open(folders []string) {
	for _, path := range folders {
		if found, err := os.Stat(path); err == nil && found.Mode().Perm() != 0o777 {
			os.Chmod(path, found.Mode()|0o777) // a group that new files inherit stays
		}
	}
}

// reason gives the system's words without the call and the path.
func reason(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		text := number.Error()
		return strings.ToUpper(text[:1]) + text[1:]
	}
	return err.Error()
}

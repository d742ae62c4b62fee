package lint

import (
	"bytes"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
)

// workplace returns a pattern of paths on the machine on which the code was first written. Such
// paths mean nothing to readers of the code. The pattern is split so that this file does not match
// it.
func workplace() *regexp.Regexp {
	return regexp.MustCompile(`(\.\./|/work/|\b)` + "shared" + `/(design|protocol|style|limits|peers|hooks)|/work` +
		`/(main|shared|\.library)|\.\./` + "shared" + `\b`)
}

// skippedDirs are directories that contain no files written for the project.
var skippedDirs = []string{".git", "dist", "data", "eds-demo", ".tools", "node_modules"}

// CheckTexts returns one line for each line of a text file that refers to a path that readers of
// the module do not have.
func CheckTexts(root fs.FS) ([]string, error) {
	var problems []string
	pattern := workplace()
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(skippedDirs, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		// In a worktree, .git is a file.
		if info, err := d.Info(); err != nil || !info.Mode().IsRegular() || info.Size() > 1<<20 || name == ".git" {
			return err
		}
		text, err := fs.ReadFile(root, name)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		for i, line := range bytes.Split(text, []byte("\n")) {
			if match := pattern.Find(line); match != nil {
				problems = append(problems, fmt.Sprintf("%s:%d: it refers to %s, which its readers do not have", name, i+1, match))
			}
		}
		return nil
	})
	return problems, err
}

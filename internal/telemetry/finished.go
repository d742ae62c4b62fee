package telemetry

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// finishedFile is a rotated log file, to which nothing is written any more.
type finishedFile struct {
	path string
	name string // LogFileOptions.Name
	when string // the time in the file's name; sorts chronologically
	size int64
}

var finishedPattern = regexp.MustCompile(`^(.+)-(\d{8}T\d{6}\.\d{9}Z)\.log(\.gz)?$`)

// SentName returns the path to which a finished file must be renamed if it is kept after it was
// sent. Finished no longer returns such a file, but the file's size still counts toward
// MaxTotal.
func SentName(path string) string {
	dir, file := filepath.Split(path)
	m := finishedPattern.FindStringSubmatch(file)
	if m == nil {
		return path
	}
	return dir + m[1] + ".sent" + file[len(m[1]):]
}

// finishedFiles returns the finished files in dir for all log names, oldest first.
func finishedFiles(dir string) ([]finishedFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var finished []finishedFile
	for _, e := range entries {
		m := finishedPattern.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since the directory was read
		}
		if err != nil {
			return nil, err
		}
		finished = append(finished, finishedFile{filepath.Join(dir, e.Name()), m[1], m[2], info.Size()})
	}
	slices.SortStableFunc(finished, func(a, b finishedFile) int { return strings.Compare(a.when, b.when) })
	return finished, nil
}

// compressFinished compresses the finished files in dir for the given log name that are not
// compressed yet. Some of them may be from an earlier run.
func compressFinished(dir, name string) error {
	finished, err := finishedFiles(dir)
	if err != nil {
		return err
	}
	for _, f := range finished {
		if f.name == name && strings.HasSuffix(f.path, ".log") {
			err = errors.Join(err, compress(f.path))
		}
	}
	return err
}

// compress replaces the file at path with a compressed file at path + ".gz". A power cut leaves
// at least one complete file.
func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := path + ".gz.part"
	out, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	zipped := gzip.NewWriter(out)
	_, err = io.Copy(zipped, in)
	err = errors.Join(err, zipped.Close())
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err = os.Rename(temp, path+".gz"); err != nil {
		return err
	}
	_ = in.Close() // Windows cannot delete an open file
	return os.Remove(path)
}

// prune deletes the oldest finished files in dir until the remaining files have at most bound
// bytes. It returns the number of deleted files and their total size in bytes.
func prune(dir string, bound int64) (files int, bytes int64) {
	finished, err := finishedFiles(dir)
	if err != nil {
		return 0, 0
	}
	total := int64(0)
	for _, f := range finished {
		total += f.size
	}
	for _, f := range finished {
		if total <= bound {
			break
		}
		if os.Remove(f.path) == nil {
			files++
			bytes += f.size
			total -= f.size
		}
	}
	return files, bytes
}

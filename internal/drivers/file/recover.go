package file

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// recover makes the files what the journal on disk says that they are: longer
// ones are cut, those of a batch that does not count are removed.
func (l *lines) recover() error {
	j, err := l.load()
	if err != nil {
		return err
	}
	for dir, f := range j.Open {
		err := l.cut(path.Join(dir, f.Name), f.Size)
		if errors.Is(err, errShort) || errors.Is(err, fs.ErrNotExist) {
			// Somebody has taken it away, or emptied it: a new one is begun.
			l.env.Logger.Warn("a file that eds appended to is gone, or shorter than it was", "file", path.Join(dir, f.Name))
			delete(j.Open, dir)
			continue
		}
		if err != nil {
			return fmt.Errorf("repair the files of an interrupted batch: %w", err)
		}
	}
	for _, name := range j.Begun {
		err := l.disk.remove(name)
		if err == nil {
			err = l.disk.syncDir(path.Dir(name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the files of an interrupted batch: %w", bare(err))
		}
	}
	j.Begun = nil
	l.journal, l.unsure = j, false
	return nil
}

var errShort = errors.New("the file is too short")

// cut cuts a file that is longer than size.
func (l *lines) cut(name string, size int64) error {
	info, err := l.disk.stat(name)
	if err != nil {
		return bare(err)
	}
	if info.Size() < size {
		return errShort
	}
	if info.Size() == size {
		return nil
	}
	f, err := l.disk.open(name)
	if err != nil {
		return bare(err)
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	return bare(errors.Join(err, f.Close()))
}

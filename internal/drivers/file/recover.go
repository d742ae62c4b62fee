package file

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// recover brings the files back to the state that the journal on disk records. It truncates files
// that are longer than the journal says, and removes new files of an uncommitted batch.
func (l *rollingSink) recover() error {
	j, err := l.readJournal()
	if err != nil {
		return err
	}
	for dir, f := range j.Open {
		err := l.truncate(path.Join(dir, f.Name), f.Size)
		if errors.Is(err, errShort) || errors.Is(err, fs.ErrNotExist) {
			// A reader has removed or emptied the file, so the next batch begins a new file.
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
			return fmt.Errorf("remove the files of an interrupted batch: %w", withoutNames(err))
		}
	}
	j.Begun = nil
	l.journal, l.needsRecovery = j, false
	return nil
}

var errShort = errors.New("the file is too short")

// truncate shortens a file to size bytes. If the file is already shorter, it returns errShort.
func (l *rollingSink) truncate(name string, size int64) error {
	info, err := l.disk.stat(name)
	if err != nil {
		return withoutNames(err)
	}
	if info.Size() < size {
		return errShort
	}
	if info.Size() == size {
		return nil
	}
	f, err := l.disk.open(name)
	if err != nil {
		return withoutNames(err)
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	return withoutNames(errors.Join(err, f.Close()))
}

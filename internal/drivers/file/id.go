package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

var (
	_ sink.Identifier = (*fileSink)(nil)
	_ sink.Identifier = (*rollingSink)(nil)
)

// idFile is the file that contains the directory's id.
var idFile = path.Join(privateDir, "destination")

// ID returns the directory's id, or "" if the directory does not exist or has no id. From the id,
// eds can tell whether another directory has taken the place of this one, for example because a
// file system is not mounted.
func (s *fileStore) ID(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", errClosed
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	exists, err := s.disk.exists()
	if err == nil && exists {
		err = s.refresh()
	}
	if err != nil || !exists {
		return "", err
	}
	return s.readID()
}

func (s *fileStore) readID() (string, error) {
	text, err := s.disk.readFile(idFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the id of the directory: %w", withoutNames(err))
	}
	return strings.TrimSpace(string(text)), nil
}

// SetID writes Env.ID into the directory, unless the directory already has an id.
func (s *fileStore) SetID(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.beginCall(ctx); err != nil {
		return err
	}
	if id, err := s.readID(); err != nil || id != "" || s.env.ID == "" {
		return err
	}
	if err := s.replace(idFile, []byte(s.env.ID+"\n")); err != nil {
		return fmt.Errorf("write the id of the directory: %w", err)
	}
	return nil
}

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
	_ sink.Identifier = (*objects)(nil)
	_ sink.Identifier = (*lines)(nil)
)

// idFile holds the directory's id.
var idFile = path.Join(own, "destination")

// ID returns the id that the directory holds. Another one at the same path, as where a
// file system is not mounted, holds none or another one.
func (s *store) ID(ctx context.Context) (string, error) {
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

func (s *store) readID() (string, error) {
	text, err := s.disk.readFile(idFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the id of the directory: %w", bare(err))
	}
	return strings.TrimSpace(string(text)), nil
}

// SetID writes Env.ID into the directory if it has no id.
func (s *store) SetID(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.begin(ctx); err != nil {
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

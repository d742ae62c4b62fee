package selfupdate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// askVersion runs "<program> version" with an empty environment in an empty
// directory, and returns what it says.
func (u *Updater) askVersion(ctx context.Context, program string) (string, error) {
	dir, err := os.MkdirTemp(filepath.Dir(program), u.scratchPattern())
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", filepath.Base(program), err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeoutCause(ctx, u.bounds.patience, fmt.Errorf("it says nothing for %v", u.bounds.patience))
	defer cancel()
	said, err := u.run(ctx, program, dir)
	if err != nil {
		return "", fmt.Errorf("run %q: %w", filepath.Base(program)+" version", err)
	}
	version, err := ParseVersion(said)
	if err != nil {
		return "", fmt.Errorf("run %q: it says something else: %w", filepath.Base(program)+" version", err)
	}
	return version, nil
}

// run runs the program, and again while its file is held open for writing: any
// process that was forked while it was written holds it until it has called exec.
func (u *Updater) run(ctx context.Context, program, dir string) (string, error) {
	backoff := retry.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	for {
		said, err := u.runOnce(ctx, program, dir)
		if !errors.Is(err, syscall.ETXTBSY) {
			return said, err
		}
		if err := pause(ctx, backoff.Next(err)); err != nil {
			return "", err
		}
	}
}

func (u *Updater) runOnce(ctx context.Context, program, dir string) (string, error) {
	out, errs := &head{left: u.bounds.answer}, &head{left: u.bounds.answer}
	cmd := exec.CommandContext(ctx, program, "version")
	cmd.Env, cmd.Dir = []string{}, dir
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = time.Second // for a child that holds the output open
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil && errs.Len() > 0:
		first, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
		return "", fmt.Errorf("%w: %.200q", err, first)
	}
	return out.String(), err
}

// head keeps the beginning of what is written to it.
type head struct {
	bytes.Buffer
	left int64
}

func (h *head) Write(p []byte) (int, error) {
	keep := min(int64(len(p)), h.left)
	h.left -= keep
	h.Buffer.Write(p[:keep])
	return len(p), nil
}

// sumFile returns the SHA-256 of a file.
func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

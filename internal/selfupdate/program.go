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

// askVersion runs "<program> version" with an empty environment in an empty directory, and
// returns the version that the program prints.
func (u *Updater) askVersion(ctx context.Context, program string) (string, error) {
	dir, err := os.MkdirTemp(filepath.Dir(program), u.scratchPattern())
	if err != nil {
		return "", fmt.Errorf("check the version of %s: %w", filepath.Base(program), err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeoutCause(ctx, u.bounds.patience, fmt.Errorf("it prints nothing for %v", u.bounds.patience))
	defer cancel()
	output, err := u.run(ctx, program, dir)
	if err != nil {
		return "", fmt.Errorf("run %q: %w", filepath.Base(program)+" version", err)
	}
	version, err := ParseVersion(output)
	if err != nil {
		return "", fmt.Errorf("run %q: unexpected output: %w", filepath.Base(program)+" version", err)
	}
	return version, nil
}

// run runs "<program> version" in dir and returns its output. It retries while the program's file
// is open for writing. A process that was forked while the file was being written keeps the file
// open until that process calls exec.
func (u *Updater) run(ctx context.Context, program, dir string) (output string, err error) {
	err = retry.Do(ctx, retry.Policy{
		Backoff:   retry.Backoff{Min: 10 * time.Millisecond, Max: time.Second},
		Retryable: func(err error) bool { return errors.Is(err, syscall.ETXTBSY) },
	}, func() (err error) {
		output, err = u.runOnce(ctx, program, dir)
		return err
	})
	return output, err
}

func (u *Updater) runOnce(ctx context.Context, program, dir string) (string, error) {
	out, errs := &head{left: u.bounds.answer}, &head{left: u.bounds.answer}
	cmd := exec.CommandContext(ctx, program, "version")
	cmd.Env, cmd.Dir = []string{}, dir
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = time.Second // the limit if a child process keeps the output open
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

// head is a writer that keeps the first bytes of the output, and discards the rest.
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

// sumFile returns the SHA-256 of the file at path, in hexadecimal.
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

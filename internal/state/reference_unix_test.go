//go:build unix

package state_test

import (
	"errors"
	"syscall"
	"testing"

	"github.com/shopmonkeyus/eds/internal/state"
)

// TestReferenceTimes_DoesNotBlockOnAPipe that has no writer.
func TestReferenceTimes_DoesNotBlockOnAPipe(t *testing.T) {
	d := open(t, t.TempDir())
	must(t, syscall.Mkfifo(d.Path("eds-data.db"), 0o600))
	if _, err := d.ReferenceTimes(); !errors.As(err, new(*state.ReferenceError)) {
		t.Error(err)
	}
}

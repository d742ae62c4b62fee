package cli_test

import (
	"strings"
	"testing"
)

// TestUsageErrors_HoldNoSecret puts keys and URLs where the command line has
// something else.
func TestUsageErrors_HoldNoSecret(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"server", "-apikey=hunter2"},
		{"server", "-hunter2"},
		{"server", "postgres://u:hunter2@h/db"},
		{"postgres://u:hunter2@h/db"},
		{"dlq", "postgres://u:hunter2@h/db"},
		{"import", "postgres://u:hunter2@h/db"},
		{"publickey", "eyJhbGciOi.hunter2.x"},
		{"help", "postgres://u:hunter2@h/db"},
		{"server", "help", "postgres://u:hunter2@h/db"},
		{"server", "--port", "hunter2"},
		{"health", "--port", "hunter2"},
		{"server", "--renew-interval", "hunter2"},
		{"server", "--restart=hunter2"},
		{"server", "--data-dir", dir, "--url", "postgres://u:hunter2@h:port/db"},
		{"server", "--data-dir", dir, "--server", "foo://u:hunter2@h"},
		{"import", "--data-dir", dir, "--api-url", "https://u:hunter2@h"},
	} {
		if out, stderr, code := eds(t, nil, args...); code != 3 || stderr == "" || strings.Contains(out+stderr, "hunter2") {
			t.Errorf("eds %v: exit code %d\n%s%s", args, code, out, stderr)
		}
	}
}

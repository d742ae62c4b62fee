package cli_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/state"
)

// row adds the dead letter of a row that an import into the given database could not load.
func (w *deadLetterWorld) row(file, job string, line int64, payload string) {
	w.t.Helper()
	q, err := dlq.Open(filepath.Join(w.dir, "dlq"))
	if err != nil {
		w.t.Fatal(err)
	}
	at := reconciler.Named("sqlite://"+file, os.LookupEnv)
	err = q.PutRow(dlq.EntryImport{Destination: at.Identity, Table: "order", Job: job}, "f.gz", line, dlq.Entry{
		Operation: "INSERT", Keys: []string{payload}, Reason: fmt.Sprintf("file f.gz, line %d: out of range", line),
		Time: time.Now(), Payload: []byte(payload),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func inserted(id, v string) string {
	return fmt.Sprintf(
		`{"operation":"INSERT","id":"e","table":"order","key":[%q],"modelVersion":"v1","after":{"id":%q,"v":%q},`+
			`"mvccTimestamp":"5","imported":true}`,
		id, id, v,
	)
}

// TestReplay_WritesRowsOfTheLastImport: of two imports of the table, the rows of the last one
// are written, but not a line that is no row, nor the row of another destination.
func TestReplay_WritesRowsOfTheLastImport(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.publish()
	w.stream(update("v1", "9", "x"))
	dir, err := state.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	at := reconciler.Named("sqlite://"+w.file, os.LookupEnv)
	last := state.ImportRecord{Table: "order", Job: "last", Rows: 2, Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: 9}}}
	if err := errors.Join(dir.RecordSnapshots(at, last), dir.Close()); err != nil {
		t.Fatal(err)
	}
	w.row(w.file, "last", 3, inserted("3", "of the last import"))
	w.row(w.file, "last", 4, "[]")
	w.row(w.file, "earlier", 5, inserted("5", "of the import before"))
	w.row(filepath.Join(t.TempDir(), "other.db"), "last", 6, inserted("6", "of another destination"))
	for _, c := range []struct {
		args []string
		says string
		want map[string]string
	}{
		{
			nil, "1 applied, 1 rejected again, 1 superseded, 1 of other destinations left\n",
			map[string]string{"9": "x", "3": "of the last import"},
		},
		{
			[]string{"--force"},
			"1 applied, 1 rejected again, 0 superseded, 1 of other destinations left\n",
			map[string]string{"9": "x", "3": "of the last import", "5": "of the import before"},
		},
	} {
		out := w.eds(append([]string{"dlq", "replay"}, c.args...)...)
		if !strings.HasPrefix(out, c.says) {
			t.Errorf("the replay says %q, want %q", out, c.says)
		}
		if diff := cmp.Diff(c.want, w.rows()); diff != "" {
			t.Error(diff)
		}
	}
	list := w.eds("dlq", "list", "--stage", "import")
	if strings.Count(list, "\n") != 3 || strings.Count(list, "file f.gz, line 4: out of range") != 1 ||
		!strings.Contains(list, "line 6") {
		t.Errorf("the remaining entries:\n%s", list)
	}
	for line := range strings.Lines(list) {
		if !strings.Contains(line, "file f.gz, line 4") {
			continue
		}
		id, _, _ := strings.Cut(line, " ")
		shown := w.eds("dlq", "show", id)
		if !strings.Contains(shown, "\njob:         last\nfile:        f.gz\nline:        4\n") || !strings.HasSuffix(shown, "\n\n[]\n") {
			t.Errorf("the row is shown as\n%s", shown)
		}
	}
}

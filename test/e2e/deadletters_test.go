package e2e_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/server"
)

// report returns the output of "eds status --json".
func (w *world) report() (r server.Report) {
	w.t.Helper()
	out, stderr, _ := w.eds("status", "--json", "--data-dir", w.data)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.t.Fatalf("eds status: %v\n%s%s", err, out, stderr)
	}
	return r
}

// customer publishes a change of a customer, whose row had the id before.
func (w *world) customer(before, id, name string) {
	w.t.Helper()
	row := map[string]any{"id": id, "firstName": name}
	change := map[string]any{
		"operation": "UPDATE", "table": "customer", "id": "change of " + id, "key": []string{id},
		"modelVersion":  w.tables()["customer"].Version,
		"mvccTimestamp": clock(), "after": row,
	}
	if before != id {
		change["before"] = map[string]any{"id": before}
	}
	w.publish("customer", "UPDATE", change)
}

// TestDeadLetters_OfARowThatMoves dead-letters a change of a row's key. The source lacks the old
// row, and the new one arrives later.
func TestDeadLetters_OfARowThatMoves(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	d.execute(`ALTER TABLE customer ADD CONSTRAINT liked CHECK ("firstName" <> 'disliked')`)
	p := w.serve()
	w.customer("A", "A", "first")
	w.drain(p)
	ids := func() string {
		return d.query(`SELECT coalesce(string_agg(id || ' ' || "firstName", ', ' ORDER BY id), '') FROM customer WHERE length(id) = 1`)
	}
	expect := func(rows, state string) {
		t.Helper()
		w.drain(p)
		if got := ids(); got != rows {
			t.Errorf("the rows are %q, want %q", got, rows)
		}
		if letters := w.letters(); !regexp.MustCompile(` `+state+` .* customer +B +UPDATE +apply `).MatchString(letters) ||
			strings.Count(letters, "\n") != 2 {
			t.Errorf("want one dead letter that is %s:\n%s", state, letters)
		}
	}
	w.customer("A", "B", "disliked")
	expect("", "waiting")
	w.customer("A", "A", "another") // with the old key
	expect("A another", "waiting")
	eventually(t, "health warns", func() bool { return len(w.report().Health.Warnings) == 1 }, p.output)
	w.customer("B", "B", "good")
	expect("A another, B good", "superseded")
	eventually(t, "health warns no more", func() bool { return len(w.report().Health.Warnings) == 0 }, p.output)
	p.stop()
}

// TestDeadLetters_OfGarbage expects dead letters to stay visible everywhere, through changes of
// every row of the table and a restart, until they are dropped or the table is imported.
func TestDeadLetters_OfGarbage(t *testing.T) {
	t.Parallel()
	const garbage = 5
	w := newWorld(t, newDatabase(t).url, devhq.Options{})
	w.imports()
	p := w.serve()
	publish := func() {
		for i := range garbage {
			w.publish("customer", "UPDATE", map[string]any{"operation": fmt.Sprint("garbage ", i)})
		}
		w.work(100)
		w.drain(p)
	}
	visible := func(n int) {
		t.Helper()
		eventually(t, "every view shows the dead letters", func() bool {
			r, metrics := w.report(), ""
			if code, text := p.get("/metrics"); code == 200 {
				metrics = text
			}
			warns := len(r.Health.Warnings) == 1 && strings.Contains(r.Health.Warnings[0].Message,
				fmt.Sprintf("%d of unknown rows; see: eds dlq list", n))
			return r.DeadLetters == n && r.DeadUnknown == n && warns == (n > 0) && len(r.Health.Reasons) == 0 &&
				strings.Contains(metrics, fmt.Sprintf("\neds_dead_letters %d\n", n)) && strings.Contains(metrics,
				fmt.Sprintf("\neds_dead_letters_unknown %d\n", n))
		}, func() string { return fmt.Sprintf("%+v\n%s", w.report().Health, w.letters()) })
	}
	publish()
	visible(garbage)
	p.kill()
	p = w.serve()
	w.work(50)
	w.drain(p)
	visible(garbage)
	status, _, _ := w.eds("status", "--data-dir", w.data)
	if !strings.Contains(status, fmt.Sprintf("%d, %d of unknown rows; see: eds dlq list\n", garbage, garbage)) {
		t.Errorf("status:\n%s", status)
	}
	if letters := w.letters(); strings.Count(letters, "  unknown  ") != garbage || !strings.HasSuffix(letters,
		"An import resolves them: eds import --only customer\n") {
		t.Errorf("dead letters:\n%s", letters)
	}
	if out, _, code := w.eds("dlq", "drop", "--all", "--state", "unknown", "--data-dir", w.data); code != 0 ||
		out != fmt.Sprintf("%d dropped\n", garbage) {
		t.Errorf("dlq drop ends with %d: %s", code, out)
	}
	visible(0) // without a change or a restart
	p.stop()
	w.equal()
}

package verify

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Examples is the maximum number of rows of each kind that a Report names.
const Examples = 10

// Report is the result of a comparison of two sets of rows of a table. It contains the keys of
// rows, but no other values.
type Report struct {
	Table     string
	Want, Got int64 // number of rows on each side
	Missing   int64 // rows of Want that Got lacks
	Extra     int64 // rows of Got that Want lacks, or whose key Got repeats
	Different int64 // rows whose values differ between the sides

	// Columns is the number of rows that differ in a column, by column name.
	Columns map[string]int64
	// These fields name the first rows of each kind, up to Examples.
	MissingKeys, ExtraKeys []string
	Differences            []Difference

	// Error is the reason why the rows could not be compared, or "" if they were compared.
	Error string `json:",omitempty"`

	// Suspects are the rows that are not equal, or nil if there are more than MaxSuspects.
	Suspects *Suspects `json:"-"`
}

// Suspects are the rows that a comparison found unequal, with their checksums on both sides.
type Suspects struct {
	rows  map[uint64]sides // checksums by the hash of the row's key
	moved int
}

// sides are a row's checksums on both sides. The checksum is 0 if the side has no such row.
type sides struct{ want, got uint64 }

// MaxSuspects is the maximum number of rows in Suspects. Each row takes about 24 bytes.
const MaxSuspects = 100_000

// Len returns the number of suspect rows.
func (s *Suspects) Len() int { return len(s.rows) }

// Moved returns the number of suspect rows that have changed on either side since the previous
// comparison, or were not part of that comparison. These rows may become equal later.
func (s *Suspects) Moved() int { return s.moved }

// Difference names one row whose values differ between the sides, and the columns in which they
// differ.
type Difference struct {
	Key     string
	Columns []string
}

// Equal reports whether both sides hold the same rows.
func (r Report) Equal() bool {
	return r.Error == "" && r.Missing == 0 && r.Extra == 0 && r.Different == 0
}

// String describes r in one line.
func (r Report) String() string {
	switch {
	case r.Error != "":
		return fmt.Sprintf("%s: it was not compared: %s", r.Table, r.Error)
	case r.Equal():
		return fmt.Sprintf("%s: %d rows are equal", r.Table, r.Got)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d rows there, %d here", r.Table, r.Want, r.Got)
	list := func(n int64, kind string, keys []string) {
		if n > 0 {
			fmt.Fprintf(&b, "; %d %s: %s", n, kind, strings.Join(keys, " "))
			if n > int64(len(keys)) {
				b.WriteString(" ...")
			}
		}
	}
	list(r.Missing, "missing", r.MissingKeys)
	list(r.Extra, "extra", r.ExtraKeys)
	differences := make([]string, len(r.Differences))
	for i, d := range r.Differences {
		differences[i] = d.Key + " (" + strings.Join(d.Columns, ", ") + ")"
	}
	list(r.Different, "different", differences)
	return b.String()
}

// Compare compares two sequences of rows of t. The parameter want has the expected rows, and the
// parameter got has the actual rows. If the parameter among is not nil, only its rows can be
// unequal. All other rows count as equal: they were equal in an earlier comparison, so a difference
// shows only that they have changed since. If several expected rows share a key, the last one
// counts. Compare reads each side once. For each expected row, it keeps the key and a checksum per
// column, which take about 45 bytes plus one byte per column. Rows count as equal if their 64-bit
// hashes are equal.
func Compare(ctx context.Context, t *schema.Table, among *Suspects, want, got iter.Seq2[*change.Row, error]) (Report, error) {
	c := tableComparison{
		report: Report{Table: t.Name, Columns: make(map[string]int64), Suspects: &Suspects{rows: make(map[uint64]sides)}},
		among:  among,
		index:  newIndex(len(t.Columns)),
		digest: digest{table: t, checks: make([]byte, len(t.Columns))},
	}
	if err := c.walk(ctx, want, c.addWanted); err != nil {
		return c.report, fmt.Errorf("read the expected rows of %q: %w", t.Name, err)
	}
	if err := c.walk(ctx, got, c.checkGot); err != nil {
		return c.report, fmt.Errorf("read the actual rows of %q: %w", t.Name, err)
	}
	c.addMissing()
	return c.report, nil
}

// tableComparison is the state of one call of Compare.
type tableComparison struct {
	report Report
	among  *Suspects // nil for all rows
	index  *index
	digest digest
}

func (c *tableComparison) walk(ctx context.Context, rows iter.Seq2[*change.Row, error], visit func()) error {
	n := 0
	for row, err := range rows {
		if err != nil {
			return err
		}
		if n++; n&0xff == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.digest.of(row)
		visit()
	}
	return ctx.Err()
}

func (c *tableComparison) addWanted() {
	if c.index.put(c.digest.key, c.digest.sum, c.digest.checks) {
		c.report.Want++
	}
}

func (c *tableComparison) checkGot() {
	c.report.Got++
	r, known := c.index.get(c.digest.key)
	switch {
	case !known || r.seen():
		if !c.suspect(c.digest.key, sides{got: c.digest.sum}) {
			return
		}
		c.report.Extra++
		if c.report.Extra <= Examples {
			c.report.ExtraKeys = append(c.report.ExtraKeys, c.digest.keyText())
		}
		return
	case r.sum() != c.digest.sum:
		c.different(r)
	}
	r.markSeen()
}

// suspect records an unequal row as a suspect. It reports whether the row counts as unequal, which
// is false for a row that is not in c.among.
func (c *tableComparison) suspect(key []byte, now sides) bool {
	hash := xxhash.Sum64(key)
	var before sides
	if c.among != nil {
		var ok bool
		if before, ok = c.among.rows[hash]; !ok {
			return false
		}
	}
	if s := c.report.Suspects; s != nil {
		if before != now {
			s.moved++
		}
		if s.rows[hash] = now; len(s.rows) > MaxSuspects {
			c.report.Suspects = nil
		}
	}
	return true
}

func (c *tableComparison) different(r rowRecord) {
	if !c.suspect(c.digest.key, sides{r.sum(), c.digest.sum}) {
		return
	}
	var columns []string
	for slot, check := range r.checks() {
		if check != c.digest.checks[slot] {
			name := c.digest.table.Columns[slot].Name
			columns = append(columns, name)
			c.report.Columns[name]++
		}
	}
	c.report.Different++
	if c.report.Different <= Examples {
		c.report.Differences = append(c.report.Differences, Difference{Key: c.digest.keyText(), Columns: columns})
	}
}

func (c *tableComparison) addMissing() {
	for r := range c.index.records() {
		if r.seen() || !c.suspect(r.key(), sides{want: r.sum()}) {
			continue
		}
		c.report.Missing++
		if c.report.Missing <= Examples {
			c.report.MissingKeys = append(c.report.MissingKeys, keyText(r.key()))
		}
	}
}

// digest holds the key and the checksums of the current row.
type digest struct {
	table  *schema.Table
	key    []byte // the canonical texts of the key columns, each preceded by its length
	sum    uint64 // checksum of the whole row
	checks []byte // the low byte of each column's hash
	text   []byte
	sums   []byte
}

func (d *digest) of(row *change.Row) {
	d.key, d.sums = d.key[:0], d.sums[:0]
	for slot, c := range d.table.Columns {
		// A value starts with an extra byte, which distinguishes an empty value from NULL.
		d.text = d.text[:0]
		if !row.IsNull(slot) {
			d.text = appendCanonical(append(d.text, 1), c.Type, row.Value(slot))
		}
		sum := xxhash.Sum64(d.text)
		d.sums = binary.LittleEndian.AppendUint64(d.sums, sum)
		d.checks[slot] = byte(sum)
		if slot < d.table.Keys {
			text := d.text[min(1, len(d.text)):]
			d.key = append(binary.AppendUvarint(d.key, uint64(len(text))), text...)
		}
	}
	d.sum = xxhash.Sum64(d.sums)
}

func (d *digest) keyText() string { return keyText(d.key) }

// maxKeyText is the maximum length of a key column's value in a report, in bytes.
const maxKeyText = 80

// keyText returns a digest's key in readable form: the values of the key columns, separated by
// slashes. Values with special characters are quoted, and long values are cut to maxKeyText.
func keyText(key []byte) string {
	var parts []string
	for len(key) > 0 {
		n, w := binary.Uvarint(key)
		text := key[w : w+int(n)]
		key = key[w+int(n):]
		part := fmt.Sprintf("%q", text[:min(len(text), maxKeyText)])
		if plain(text) {
			part = string(text)
		} else if len(text) > maxKeyText {
			part += "..."
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/")
}

func plain(text []byte) bool {
	return len(text) > 0 && len(text) <= maxKeyText && !slices.ContainsFunc(text, func(c byte) bool {
		return c <= ' ' || c >= 0x7f || c == '"' || c == '/' || c == '\\' || c == '(' || c == ','
	})
}

package lake

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// PathTemplate is a template of directories, such as {table}/dt=YYYY-MM-DD/. It is safe for
// concurrent use.
type PathTemplate struct {
	pieces []piece
	uses   []func(k *dirKey, e *cdc.Event) // each sets one member of k that the directory depends on, other than the table
}

// piece is one piece of a template: a fixed text, or a function that returns text for an event.
type piece struct {
	text string
	of   func(e *cdc.Event) string
}

// maxSegment is the maximum length, in bytes, of the text for one member of an event.
const maxSegment = 200

// members has the names that a template may have in braces. The function of a name returns the text
// that replaces the name for an event.
var members = map[string]func(e *cdc.Event) string{
	"table":     func(e *cdc.Event) string { return encode.Segment(e.Table, maxSegment) },
	"operation": func(e *cdc.Event) string { return e.Op.String() },
	"version":   func(e *cdc.Event) string { return orNone(e.ModelVersion) },
	"company":   func(e *cdc.Event) string { return orNone(e.CompanyID) },
	"location":  func(e *cdc.Event) string { return orNone(e.LocationID) },
}

// dates maps each part of a date in a template to its layout for time.Format. The date is that of
// the change, in UTC, so it does not depend on when eds writes the change.
var dates = map[string]string{"YYYY": "2006", "MM": "01", "DD": "02", "HH": "15"}

func orNone(text string) string { return encode.Segment(cmp.Or(text, "NONE"), maxSegment) }

var (
	tokens  = regexp.MustCompile(`\{[^{}/]*\}|[A-Za-z]+`)
	isDate  = regexp.MustCompile(`^(?:YYYY|MM|DD|HH)+$`)
	dateBit = regexp.MustCompile(`YYYY|MM|DD|HH`)
)

// ParsePathTemplate parses a template. A name in braces represents a member of the change. A word
// that consists of YYYY, MM, DD and HH represents parts of the date of the change.
func ParsePathTemplate(text string) (*PathTemplate, error) {
	trimmed := strings.Trim(text, "/")
	if strings.ContainsAny(tokens.ReplaceAllString(trimmed, ""), "{}") {
		return nil, errors.New("option layout has a brace that does not belong to a name like {table}")
	}
	for element := range strings.SplitSeq(trimmed, "/") {
		if element == "" || element == "." || element == ".." {
			return nil, errors.New("option layout has an element that is empty, or leads elsewhere")
		}
	}
	l := &PathTemplate{}
	named, dated, rest := false, false, 0
	for _, at := range tokens.FindAllStringIndex(trimmed, -1) {
		token := trimmed[at[0]:at[1]]
		var of func(e *cdc.Event) string
		switch {
		case token[0] == '{':
			if of = members[token[1:len(token)-1]]; of == nil {
				return nil, fmt.Errorf("option layout has an unknown name in braces; it may name {%s}, YYYY, MM, DD and HH",
					strings.Join(slices.Sorted(maps.Keys(members)), "}, {"))
			}
			named = named || token == "{table}"
			if use := uses[token[1:len(token)-1]]; use != nil {
				l.uses = append(l.uses, use)
			}
		case isDate.MatchString(token):
			layout := dateBit.ReplaceAllStringFunc(token, func(bit string) string { return dates[bit] })
			of = func(e *cdc.Event) string { return when(e).Format(layout) }
			if !dated {
				l.uses = append(l.uses, useHour)
			}
			dated = true
		default:
			continue
		}
		l.pieces = append(l.pieces, piece{text: trimmed[rest:at[0]]}, piece{of: of})
		rest = at[1]
	}
	if !named {
		return nil, errors.New("option layout should name {table}, as {table}/dt=YYYY-MM-DD/")
	}
	l.pieces = append(l.pieces, piece{text: trimmed[rest:]})
	return l, nil
}

// when returns the time of the event, in UTC. It replaces a year before 0 or after 9999 with the
// nearest valid time.
func when(e *cdc.Event) time.Time {
	t := time.UnixMilli(e.Timestamp).UTC()
	if e.Timestamp == 0 {
		t = e.Clock.Time()
	}
	switch {
	case t.Year() < 0:
		return time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	return t
}

// dirKey has the members of an event that determine its directory. Events with the same key have
// the same directory.
type dirKey struct {
	table, version, company, location string
	op                                cdc.Op
	hour                              int64
}

// uses has a function for each name in braces that needs a member of a dirKey. The function sets
// that member.
var uses = map[string]func(k *dirKey, e *cdc.Event){
	"version":   func(k *dirKey, e *cdc.Event) { k.version = e.ModelVersion },
	"company":   func(k *dirKey, e *cdc.Event) { k.company = e.CompanyID },
	"location":  func(k *dirKey, e *cdc.Event) { k.location = e.LocationID },
	"operation": func(k *dirKey, e *cdc.Event) { k.op = e.Op },
}

// useHour sets the hour of the event, counted in whole hours since 1970.
func useHour(k *dirKey, e *cdc.Event) {
	at, hour := e.Timestamp, time.Hour.Milliseconds()
	if at == 0 {
		at, hour = e.Clock.Wall, int64(time.Hour)
	}
	if k.hour = at / hour; at < 0 && at%hour != 0 {
		k.hour--
	}
}

// dirKey returns the dirKey of the event, with only the members that the layout uses.
func (l *PathTemplate) dirKey(e *cdc.Event) dirKey {
	k := dirKey{table: e.Table}
	for _, use := range l.uses {
		use(&k, e)
	}
	return k
}

// TableOnly reports whether each table has exactly one directory, and the table's name alone
// determines the directory.
func (l *PathTemplate) TableOnly() bool {
	n := 0
	for _, p := range l.pieces {
		if p.of != nil || p.text != "" {
			n++
		}
	}
	return n == 1
}

// Dir returns the directory of an event, without leading and trailing slashes.
func (l *PathTemplate) Dir(e *cdc.Event) string {
	var b strings.Builder
	for _, p := range l.pieces {
		if p.of != nil {
			b.WriteString(p.of(e))
		} else {
			b.WriteString(p.text)
		}
	}
	return encode.CleanPath(b.String())
}

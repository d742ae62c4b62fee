package sink_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func TestMigrateTables_IsolatesRefusedTables(t *testing.T) {
	down, refused := errors.New("the connection is lost"), errors.New("a view has the name")
	for name, c := range map[string]struct {
		tables  []string
		fails   map[string]error // by table
		calls   []string
		refused []string
		err     error
	}{
		"success":    {[]string{"a", "b"}, nil, []string{"a b "}, nil, nil},
		"one table":  {[]string{"a"}, map[string]error{"a": refused}, []string{"a "}, []string{"a"}, nil},
		"one of two": {[]string{"a", "b"}, map[string]error{"b": refused}, []string{"a b ", "a ", "b "}, []string{"b"}, nil},
		"general":    {[]string{"a", "b"}, map[string]error{"a": down}, []string{"a b "}, nil, down},
		"general, later": {
			[]string{"a", "b"}, map[string]error{"a": refused, "b": down}, []string{"a b ", "a ", "b "}, []string{"a"}, down,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var tables []*schema.Table
			for _, name := range c.tables {
				tables = append(tables, &schema.Table{Name: name})
			}
			var calls []string
			got, err := sink.MigrateTables(tables, func(tables []*schema.Table) error {
				call := ""
				for _, t := range tables {
					call += t.Name + " "
				}
				calls = append(calls, call)
				for _, t := range tables {
					if err := c.fails[t.Name]; err != nil {
						return err
					}
				}
				return nil
			}, func(err error) bool { return errors.Is(err, down) })
			var names []string
			for _, t := range tables {
				if got[t] != nil {
					names = append(names, t.Name)
				}
			}
			if diff := cmp.Diff(c.refused, names) + cmp.Diff(c.calls, calls); diff != "" || !errors.Is(err, c.err) {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}

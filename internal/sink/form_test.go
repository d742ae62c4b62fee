package sink_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/sink"
)

func TestForm_RefusesBadValues(t *testing.T) {
	fields := []sink.Field{
		{Name: "Hostname", Type: "string", Required: true},
		{Name: "Port", Type: "number"},
		{Name: "Password", Type: "string", Format: "password", Required: true},
	}
	for _, c := range []struct {
		host, port, password string
		want                 string
		wrong                []string // fields
	}{
		{"db.example.com", "6432", "p", "db.example.com:6432", nil},
		{" db ", "", "  ", "db:5432", nil},
		{"2001:db8::1", " 1 ", "p", "[2001:db8::1]:1", nil},
		{"[::1]", "65535", "p", "[::1]:65535", nil},
		{"", "", "", "", []string{"Hostname", "Password"}},
		{"db:5432", "", "p", "", []string{"Hostname"}},
		{"postgres://db", "0", "p", "", []string{"Hostname", "Port"}},
		{"d b", "65536", "p", "", []string{"Hostname", "Port"}},
		{"db", "a", "p", "", []string{"Port"}},
		{"db", "-1", "p", "", []string{"Port"}},
	} {
		f := sink.NewForm(fields, map[string]string{"Hostname": c.host, "Port": c.port, "Password": c.password})
		got := f.HostPort("5432")
		var wrong []string
		for _, w := range f.Wrong {
			wrong = append(wrong, w.Field)
		}
		if diff := cmp.Diff(c.wrong, wrong); diff != "" || wrong == nil && got != c.want {
			t.Errorf("%+v: %q %s", c, got, diff)
		}
	}
}

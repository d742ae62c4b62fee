package sqlserver

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuildURL_FromFields(t *testing.T) {
	for _, c := range []struct {
		values map[string]string
		url    string
		wrong  string // the names of the invalid fields
	}{
		{
			map[string]string{"Database": "shop", "Username": "eds", "Password": "p@/%$", "Hostname": "db.example.com"},
			"sqlserver://eds:p%40%2F%25%24@db.example.com:1433/shop", "",
		},
		{
			map[string]string{"Database": "shop", "Username": "eds", "Password": "p", "Hostname": `db\SQLEXPRESS`},
			"sqlserver://eds:p@db/shop?instance=SQLEXPRESS", "",
		},
		{
			map[string]string{"Database": "shop", "Username": "eds", "Password": "p", "Hostname": `[2001:db8::1]\X`, "Port": "1444"},
			"sqlserver://eds:p@[2001:db8::1]:1444/shop?instance=X", "",
		},
		{nil, "", "Database Username Password Hostname"},
		{map[string]string{
			"Database": "a\x00b", "Username": strings.Repeat("u", 129), "Password": "p", "Hostname": "db:1433",
			"Port": "x",
		}, "", "Database Username Port Hostname"},
	} {
		got, problems := buildURL(c.values)
		var wrong []string
		for _, p := range problems {
			wrong = append(wrong, p.Field)
		}
		if diff := cmp.Diff([]string{c.url, c.wrong}, []string{got, strings.Join(wrong, " ")}); diff != "" {
			t.Errorf("%v: %s", c.values, diff)
		}
	}
}

package sink_test

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
)

var maskOptions = []sink.Option{
	{Name: "region", Harmless: true},
	{Name: "mode", Type: sink.OneOf("fast", "slow")},
	{Name: "rows", Type: sink.Int{Min: 1, Max: 10}},
	{Name: "certificate", Type: sink.FilePath{}},
	{Name: "plain"},
	{Name: "key", Type: sink.OneOf("row", "event")},
	{Name: "session-token", Harmless: true},
}

func TestMaskURL_ShowsHarmlessOptionsOnly(t *testing.T) {
	d := sink.Driver{Options: maskOptions}
	for _, c := range []struct{ raw, want string }{
		{"db://u:p@h:5432/db?region=eu&plain=x", "db://u:***@h:5432/db?region=eu&plain=***"},
		{"db://u:p@ss/w:rd@h/db", "db://u:***@h/db"},
		{"db://u@h/db", "db://u@h/db"},
		{"db:///var/data", "db:///var/data"},
		{"db://h?mode=SLOW&rows=7&REGION=eu", "db://h?mode=SLOW&rows=7&REGION=eu"},
		{"db://h?mode=hunter2&rows=4815162", "db://h?mode=***&rows=***"},
		{"db://h?unknown=x&certificate=/etc/x&%72egion=a&%zz=b&region", "db://h?unknown=***&certificate=***&%72egion=a&%zz=***&region"},
		{"db://h?key=row&session-token=x&%74oken=y", "db://h?key=***&session-token=***&%74oken=***"},
		{"db://h?plain=${X}&key=${X}&unknown=a${X}&plain=${X}${Y}", "db://h?plain=${X}&key=${X}&unknown=***&plain=***"},
		{"db://h?region=${X}${Y}", "db://h?region=${X}${Y}"},
		{
			"eventhub://ns.x.net/;SharedAccessKeyName=n;SharedAccessKey=k=;EntityPath=h",
			"eventhub://ns.x.net/;SharedAccessKeyName=***;SharedAccessKey=***;EntityPath=h",
		},
		{"eventhub://ns.x.net/%3BSharedAccessKey%3Dk%3D%3BEntityPath%3Dh", "eventhub://ns.x.net/;SharedAccessKey=***;EntityPath=h"},
		{"db:///a%3Bb%3Dc", "db:///a%3Bb%3Dc"},
		{"not a url", "***"},
	} {
		if got := sink.MaskURL(c.raw, d); got != c.want {
			t.Errorf("MaskURL(%s) = %s, want %s", c.raw, got, c.want)
		}
	}
}

func TestMaskURL_ShowsOptionsOfTheEndpointUnlessTheirNamesAreSecret(t *testing.T) {
	d := sink.Driver{OptionPrefix: "eds-", Options: maskOptions}
	for raw, want := range map[string]string{
		"https://h/x?tenant=7&pass=x&eds-plain=y&eds-rows=7":      "https://h/x?tenant=7&pass=***&eds-plain=***&eds-rows=7",
		"https://h/x?secret=${X}&token=a${X}&key=${X}${Y}&a=${X}": "https://h/x?secret=${X}&token=***&key=***&a=${X}",
		"https://h/x?eds-unknown=x":                               "https://h/x?eds-unknown=***",
	} {
		if got := sink.MaskURL(raw, d); got != want {
			t.Errorf("MaskURL(%s) = %s, want %s", raw, got, want)
		}
	}
}

package config_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

func environment(vars map[string]string) config.Lookup {
	return func(name string) (string, bool) { value, ok := vars[name]; return value, ok }
}

func flagSet() *pflag.FlagSet {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.SetOutput(&strings.Builder{})
	return fs
}

// server parses args as "eds server" does.
func server(args []string, env map[string]string, file config.File) (config.ServerSettings, error) {
	fs := flagSet()
	common, flags := config.BindCommon(fs), config.BindServer(fs)
	if err := fs.Parse(args); err != nil {
		return config.ServerSettings{}, err
	}
	c, err := common.Resolve("/somewhere")
	if err != nil {
		return config.ServerSettings{}, err
	}
	return flags.Resolve(c, environment(env), file)
}

// imports parses args as "eds import" does.
func imports(args []string, env map[string]string, file config.File) (config.ImportSettings, error) {
	fs := flagSet()
	common, flags := config.BindCommon(fs), config.BindImport(fs)
	if err := fs.Parse(args); err != nil {
		return config.ImportSettings{}, err
	}
	c, err := common.Resolve("/somewhere")
	if err != nil {
		return config.ImportSettings{}, err
	}
	return flags.Resolve(c, environment(env), file)
}

func TestServerFlags_Defaults(t *testing.T) {
	got, err := server(nil, nil, config.File{})
	if err != nil {
		t.Fatal(err)
	}
	want := config.ServerSettings{
		Common: config.Common{DataDir: filepath.FromSlash("/somewhere/data")}, UpdateStrategy: config.Standard,
		Port: 8080, RenewInterval: 24 * time.Hour, Heal: config.HealTables, BackfillNewTables: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestServerFlags_ResolveEveryFlag(t *testing.T) {
	got, err := server([]string{
		"-d", "d", "-v", "-s", "-t", "--log-label", "L", "--log-format", "JSON", "--schema-validator", "rules", "--url", " file:///x ",
		"--api-key", "K", "--api-url", "http://localhost:3101/", "--port", "0", "--host", "[::1]", "--server", "nats://a:4222, b:4222",
		"--eds-id", "id", "--consumer-suffix", "two", "--companyIds", "c1,c2", "--companyIds", " c2 ,,c3",
		"--keep-logs", "--no-restart", "--restart",
		"--heal", "ALL", "--backfill-new-tables=false",
		"--renew-interval", "1h", "--maxAckPending", "100", "--maxPendingBuffer", "200",
		"--minPendingLatency", "1s", "--maxPendingLatency", "2s",
	}, nil, config.File{})
	if err != nil {
		t.Fatal(err)
	}
	want := config.ServerSettings{
		Common: config.Common{
			DataDir: filepath.FromSlash("/somewhere/d"), Verbose: true, Silent: true, Timestamp: true, LogLabel: "L",
			LogFormat: config.JSONFormat,
		},
		HQSettings: config.HQSettings{APIKey: config.NewSecret("K"), APIURL: "http://localhost:3101"},
		URL:        config.NewSecret("file:///x"), URLGiven: true, UpdateStrategy: config.Standard, SchemaValidator: "rules",
		Host: "::1", Servers: []string{
			"nats://a:4222",
			"nats://b:4222",
		}, ServerID: "id", ConsumerSuffix: "two", CompanyIDs: []string{"c1", "c2", "c3"},
		KeepLogs: true, NoRestart: true, Restart: true, RenewInterval: time.Hour, MaxAckPending: 100, MaxPendingBuffer: 200,
		MinPendingLatency: time.Second, MaxPendingLatency: 2 * time.Second, Heal: config.HealAll,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestImportFlags_ResolveEveryFlag(t *testing.T) {
	got, err := imports([]string{
		"--job-id", "j", "--dir", "d", "--dry-run", "--no-confirm", "--no-cleanup", "--no-delete",
		"--allow-empty", "--strict", "--schema-only", "--validate-only",
		"--timeOffset", "2026-01-31T18:30:00+02:00", "--parallel", "8", "--only", "order,part", "--companyIds", "c", "--locationIds", "l,m",
		"--url", "file:///x", "--api-key", "K", "--api-url", "https://x", "--schema-validator", "r",
	}, nil, config.File{UpdateStrategy: config.After})
	if err != nil {
		t.Fatal(err)
	}
	want := config.ImportSettings{
		Common: config.Common{DataDir: filepath.FromSlash("/somewhere/data")}, HQSettings: config.HQSettings{
			APIKey: config.NewSecret("K"),
			APIURL: "https://x",
		},
		URL: config.NewSecret("file:///x"), UpdateStrategy: config.After, SchemaValidator: "r", JobID: "j", Dir: "d",
		DryRun: true, NoConfirm: true,
		NoCleanup: true, NoDelete: true, AllowEmpty: true, Strict: true, SchemaOnly: true, ValidateOnly: true,
		TimeOffset: time.Date(2026, 1, 31, 16, 30, 0, 0, time.UTC), Parallel: 8,
		Only: []string{"order", "part"}, CompanyIDs: []string{"c"}, LocationIDs: []string{"l", "m"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := imports([]string{"--single"}, nil, config.File{}); err != nil || got.Parallel != 1 || !got.Single {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := imports(nil, nil, config.File{}); err != nil || got.Parallel != 4 || !got.TimeOffset.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestFlags_RefuseEmptyValuesThatWouldMeanEverything(t *testing.T) {
	resolve := map[string]func(args []string) error{
		"import": func(args []string) error { _, err := imports(args, nil, config.File{}); return err },
		"server": func(args []string) error { _, err := server(args, nil, config.File{}); return err },
	}
	for command, flags := range map[string][]string{
		"import": {"--only", "--companyIds", "--locationIds", "--job-id", "--dir", "--download-dir", "--timeOffset"},
		"server": {"--companyIds"},
	} {
		for _, flag := range flags {
			values := []string{"", " "}
			if flag == "--only" || strings.HasSuffix(flag, "Ids") {
				values = append(values, ",", " , ")
			}
			for _, value := range values {
				usage := new(config.UsageError)
				if err := resolve[command]([]string{flag, value}); !errors.As(err, &usage) || !strings.HasPrefix(err.Error(), flag+": ") {
					t.Errorf("%s %s %q: %v", command, flag, value, err)
				}
			}
		}
		if err := resolve[command](nil); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	if got, err := imports([]string{"--only", "", "--only", "order,"}, nil, config.File{}); err != nil ||
		!slices.Equal(got.Only, []string{"order"}) {
		t.Errorf("%q, %v", got.Only, err)
	}
	if got, err := imports([]string{"--url", ""}, nil, config.File{URL: config.NewSecret("file:///x")}); err != nil || !got.URL.IsZero() {
		t.Errorf("an empty url stands for that of the file: %v", err)
	}
	if got, err := imports([]string{"--download-dir", "d"}, nil, config.File{}); err != nil || got.DownloadDir != "d" {
		t.Errorf("%q, %v", got.DownloadDir, err)
	}
	if _, err := imports([]string{"--dir", "a", "--download-dir", "b"}, nil, config.File{}); err == nil ||
		!strings.Contains(err.Error(), "leave one out") {
		t.Errorf("both directories: %v", err)
	}
}

func TestFlags_BeatTheEnvironmentWhichBeatsTheFile(t *testing.T) {
	type values struct {
		Key, URL, ID string
		Port         int
		Keep         bool
	}
	file := config.File{Token: config.NewSecret("file"), URL: config.NewSecret("file://"), ServerID: "file", KeepLogs: true}
	env := map[string]string{"SM_APIKEY": " env\n", "PORT": "81"}
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want values
	}{
		"file":            {nil, nil, values{"file", "file://", "file", 8080, true}},
		"empty variables": {nil, map[string]string{"SM_APIKEY": "", "PORT": " "}, values{"file", "file://", "file", 8080, true}},
		"environment":     {nil, env, values{"env", "file://", "file", 81, true}},
		"flags": {
			[]string{"--api-key=flag", "--url=flag://", "--eds-id=flag", "--port=82", "--keep-logs=false"},
			env,
			values{"flag", "flag://", "flag", 82, false},
		},
		"the former name":  {[]string{"--health-port=83"}, env, values{"env", "file://", "file", 83, true}},
		"the default said": {[]string{"--port=8080"}, env, values{"env", "file://", "file", 8080, true}},
	} {
		s, err := server(c.args, c.env, file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, values{s.APIKey.Reveal(), s.URL.Reveal(), s.ServerID, s.Port, s.KeepLogs}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestFlags_ExplainWrongUsage(t *testing.T) {
	for args, want := range map[string]string{
		"--port 65536":     "--port: want a number from 0 to 65535",
		"--health-port -1": "--port: want a number from 0 to 65535",
		"--host a:80": "--host: want a host name or an IP address without a port, like 127.0.0.1; " +
			"the port has its own flag, --port",
		"--log-format xml":             `--log-format: want "text" or "json"`,
		"--api-url ftp://x":            "--api-url: want a URL like https://api.shopmonkey.cloud",
		"--api-url https://u:SECRET@x": "--api-url: want a URL without user name, query or fragment",
		"--server http://a":            "--server: a NATS server's URL begins with nats://, tls://, ws:// or wss://",
		"--server nats://":             "--server: want NATS servers like nats://host:4222, separated by commas",
		"--eds-id a.b":                 `--eds-id: want at most 128 characters, none of them . * > / \ or a space`,
		"--consumer-suffix >": `--consumer-suffix: want at most 128 characters, ` +
			`none of them . * > / \ or a space`,
		"--companyIds c,x.>": `--companyIds: an id is malformed: want at most 128 characters, ` +
			`none of them . * > / \ or a space`,
		"--maxAckPending 0":                             "--maxAckPending: want a number from 1 to 1000000",
		"--maxPendingBuffer -5":                         "--maxPendingBuffer: want a number from 1 to 1000000",
		"--renew-interval 0":                            "--renew-interval: want a time from 1s to 720h0m0s",
		"--maxPendingLatency -1s":                       "--maxPendingLatency: want a time from 0s to 1h0m0s",
		"--minPendingLatency 2s --maxPendingLatency 1s": "--minPendingLatency: it is longer than --maxPendingLatency",
	} {
		_, err := server(strings.Fields(args), nil, config.File{})
		var usage *config.UsageError
		if !errors.As(err, &usage) || err.Error() != want {
			t.Errorf("%s: got %v, want %s", args, err, want)
		}
	}
	for args, want := range map[string]string{
		"--parallel 0":            "--parallel: want a number from 1 to 64",
		"--timeOffset 2026-01-31": "--timeOffset: want a time with its zone, like 2026-01-31T18:30:00Z or 2026-01-31T18:30:00+02:00",
		"--only Order":            `--only: "Order" is not a table; names have lower-case letters, digits and _`,
		"--locationIds a*":        `--locationIds: an id is malformed: want at most 128 characters, none of them . * > / \ or a space`,
		"--job-id ../x":           `--job-id: want at most 128 characters, none of them . * > / \ or a space`,
	} {
		_, err := imports(strings.Fields(args), nil, config.File{})
		var usage *config.UsageError
		if !errors.As(err, &usage) || err.Error() != want {
			t.Errorf("%s: got %v, want %s", args, err, want)
		}
	}
}

func TestFlags_ReportAllErrors(t *testing.T) {
	_, err := server([]string{"--host", "a b", "--eds-id", "a b"}, map[string]string{"PORT": "tcp://10.0.0.1:80"}, config.File{})
	if err == nil {
		t.Fatal("no error")
	}
	var names []string
	for line := range strings.Lines(err.Error()) {
		name, _, _ := strings.Cut(line, ":")
		names = append(names, name)
	}
	if diff := cmp.Diff([]string{"PORT in the environment", "--host", "--eds-id"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestFlags_ExplainMalformedValues(t *testing.T) {
	for args, want := range map[string]string{
		"--port x":             "want a whole number",
		"--renew-interval day": "want a time like 250ms, 90s, 15m or 24h",
	} {
		_, err := server(strings.Fields(args), nil, config.File{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "strconv") {
			t.Errorf("%s: got %v, want one with %s", args, err, want)
		}
	}
}

// TestTheHelpNamesEveryFlag is a golden text: users see it.
func TestHelp_NamesEveryFlag(t *testing.T) {
	for name, bind := range map[string]func(*pflag.FlagSet){
		"common": func(fs *pflag.FlagSet) { config.BindCommon(fs) },
		"server": func(fs *pflag.FlagSet) { config.BindServer(fs) },
		"import": func(fs *pflag.FlagSet) { config.BindImport(fs) },
		"enroll": func(fs *pflag.FlagSet) { config.BindAPIURL(fs) },
	} {
		fs := flagSet()
		bind(fs)
		golden.Compare(t, name+"-flags.txt", fs.FlagUsagesWrapped(100))
	}
}

func TestRequireTLS_FlagBeatsFile(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		args []string
		file *bool
		want *bool
	}{
		{nil, nil, nil},
		{nil, &yes, &yes},
		{nil, &no, &no},
		{[]string{"--require-tls"}, nil, &yes},
		{[]string{"--require-tls"}, &no, &yes},
		{[]string{"--require-tls=false"}, &yes, &no},
	} {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		flags := config.BindAPIURL(fs)
		if err := fs.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		got, err := flags.Resolve(func(string) (string, bool) { return "", false }, config.File{RequireTLS: c.file})
		if diff := cmp.Diff(c.want, got.RequireTLS); err != nil || diff != "" {
			t.Errorf("%v: %v\n%s", c.args, err, diff)
		}
	}
}

// TestHeal is taken from the flags, else from the file.
func TestServerFlags_Heal(t *testing.T) {
	no, yes := false, true
	type values struct {
		Heal     config.Heal
		Backfill bool
	}
	for name, c := range map[string]struct {
		args []string
		file config.File
		want values
	}{
		"neither": {nil, config.File{}, values{config.HealTables, true}},
		"file":    {nil, config.File{Heal: config.HealOff, BackfillNewTables: &no}, values{config.HealOff, false}},
		"flags, not file": {
			[]string{"--heal", "tables", "--backfill-new-tables"},
			config.File{Heal: config.HealOff, BackfillNewTables: &no},
			values{config.HealTables, true},
		},
		"flags, other way": {
			[]string{"--heal=off", "--backfill-new-tables=false"},
			config.File{Heal: config.HealAll, BackfillNewTables: &yes},
			values{config.HealOff, false},
		},
	} {
		s, err := server(c.args, nil, c.file)
		if err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff(c.want, values{s.Heal, s.BackfillNewTables}); diff != "" {
			t.Error(name, diff)
		}
	}
	if _, err := server([]string{"--heal", "some"}, nil, config.File{}); err == nil ||
		err.Error() != `--heal: want "tables", "all" or "off"` {
		t.Errorf("the error is %v", err)
	}
}

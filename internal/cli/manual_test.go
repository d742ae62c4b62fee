package cli_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestVersion_PrintsTheBuildAsJSON(t *testing.T) {
	bare, _, _ := eds(t, nil, "version")
	out, _, code := eds(t, nil, "version", "--json")
	var got struct {
		Version, GoVersion, OS, Arch string
		Drivers                      []string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	if got.Version+"\n" != bare || got.GoVersion != runtime.Version() || got.OS != runtime.GOOS || got.Arch != runtime.GOARCH ||
		!slices.Contains(got.Drivers, "sqlite") {
		t.Errorf("%+v", got)
	}
}

func TestCompletion_WorksInEachShell(t *testing.T) {
	for shell, says := range map[string]string{
		"bash": "complete -o default", "zsh": "#compdef eds", "fish": "complete -c eds",
		"powershell": "Register-ArgumentCompleter",
	} {
		out, _, code := eds(t, nil, "completion", shell)
		if code != 0 || !strings.Contains(out, says) {
			t.Errorf("%s: exit code %d, %.200q", shell, code, out)
		}
	}
	for beginning, says := range map[string]string{
		"dl": "dlq\t", "server help ": "sqlite\tSQLite", "completion ": "zsh\n", "upgrade --allow": "--allow-downgrade\t",
	} {
		args := append([]string{"__complete"}, strings.Split(beginning, " ")...)
		if out, _, code := eds(t, nil, args...); code != 0 || !strings.Contains("\n"+out, "\n"+says) {
			t.Errorf("%q: exit code %d, %q", beginning, code, out)
		}
	}
}

func TestCompletion_IsValidBash(t *testing.T) {
	script, _, _ := eds(t, nil, "completion", "bash")
	check := exec.CommandContext(t.Context(), "bash", "-n")
	check.Stdin = strings.NewReader(script)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestManual_HasAPagePerCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	if out, stderr, code := eds(t, nil, "man", dir); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, stderr)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]string)
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		names[e.Name()] = string(text)
	}
	for name, says := range map[string]string{
		"eds.1":          `\fBeds-import(1)\fP`,
		"eds-server.1":   `\fB-d\fP, \fB--data-dir\fP`,
		"eds-import.1":   `\fB--timeOffset\fP`,
		"eds-dlq-list.1": `.TH "EDS-DLQ-LIST" "1"`,
		"eds-upgrade.1":  "\n  eds upgrade 1.2.3 --dry-run\n",
	} {
		if !strings.Contains(names[name], says) {
			t.Errorf("%s does not say %q:\n%s", name, says, names[name])
		}
	}
	if names["eds-man.1"] != "" {
		t.Error("there is a page of a hidden command")
	}
	for name, text := range names {
		for line := range strings.Lines(text) {
			if macro, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(line, "'") ||
				strings.HasPrefix(line, ".") && !slices.Contains([]string{".nh", ".TH", ".SH", ".TP", ".PP", ".EX", ".EE"}, macro) {
				t.Errorf("%s: troff would take this for a request: %q", name, line)
			}
		}
	}
}

func TestUsage_SuggestsSubcommands(t *testing.T) {
	for says, args := range map[string][]string{
		`did you mean "eds dlq list"?`:                  {"dlq", "lsit"},
		`did you mean "bash"?`:                          {"completion", "bsh"},
		`needs the name of a shell`:                     {"completion"},
		`eds man needs a directory`:                     {"man"},
		`unknown flag "--jsno"; did you mean "--json"?`: {"version", "--jsno"},
	} {
		if out, stderr, code := eds(t, nil, args...); code != 3 || !strings.Contains(stderr, says) {
			t.Errorf("eds %v: exit code %d, want 3 and %q\n%s%s", args, code, says, out, stderr)
		}
	}
}

func TestHelp_DescribesDestinationsAsJSON(t *testing.T) {
	type description struct {
		Name, Title, Example string
		Schemes              []string
		Options              []struct{ Name, Description string }
	}
	for _, c := range []struct {
		args  []string
		least int
	}{{[]string{"server", "help", "--json"}, 3}, {[]string{"server", "help", "postgresql", "--json"}, 1}} {
		out, stderr, code := eds(t, nil, c.args...)
		var got []description
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || len(got) < c.least {
			t.Fatalf("eds %v: exit code %d, %v\n%s%s", c.args, code, err, out, stderr)
		}
		for _, d := range got {
			if d.Name == "" || d.Title == "" || len(d.Schemes) == 0 || !strings.HasPrefix(d.Example, d.Schemes[0]+"://") ||
				len(d.Options) == 0 ||
				d.Options[0].Description == "" {
				t.Errorf("%+v", d)
			}
		}
		if c.least == 1 && (len(got) != 1 || got[0].Name != "postgres") {
			t.Errorf("%+v", got)
		}
	}
}

func TestHelp_DescribesCommandsAsJSON(t *testing.T) {
	type description struct {
		Name, Summary string
		Flags         []struct{ Name, Description string }
		Commands      []description
	}
	out, stderr, code := eds(t, nil, "help", "--json")
	var got description
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, stderr)
	}
	list, _, _ := eds(t, nil, "help")
	for _, c := range got.Commands {
		if c.Summary == "" || len(c.Flags) == 0 || !strings.Contains(list, "  "+strings.TrimPrefix(c.Name, "eds ")+" ") {
			t.Errorf("%+v", c)
		}
	}
	if len(got.Commands) < 15 {
		t.Errorf("only %d commands are described", len(got.Commands))
	}
}

func TestOutput_HasNoColoursInAPipe(t *testing.T) {
	for _, args := range [][]string{{"server", "help"}, {"server", "help", "sqlite"}, {"help"}, {"dlq", "--help"}} {
		if out, stderr, _ := eds(t, nil, args...); strings.Contains(out+stderr, "\x1b") {
			t.Errorf("eds %v: %q", args, out+stderr)
		}
	}
}

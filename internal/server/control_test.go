package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// controlled is a running server, and the HQ that controls it.
type controlled struct {
	t       *testing.T
	hq      *devhq.HQ
	session string
	health  *telemetry.Health
	file    string // config.toml
	ended   chan error
}

// control runs a server without a destination in the given environment until the test ends.
// It returns once HQ can send commands.
func control(t *testing.T, environment map[string]string, changes ...func(*config.ServerSettings)) *controlled {
	t.Helper()
	h := startHQ(t, devhq.Options{})
	o, dir := serverOptions(t, h)
	c := &controlled{
		t: t, hq: h, health: telemetry.NewHealth(), file: filepath.Join(o.DataDir, config.FileName), ended: make(chan error, 1),
	}
	for _, change := range changes {
		change(&o)
	}
	sessions := make(chan string, 1)
	sc := serverConfig(o, dir)
	sc.Health, sc.SessionBegan = c.health, func(id string) { sessions <- id }
	sc.Lookup = func(name string) (string, bool) { value, ok := environment[name]; return value, ok }
	s, err := New(sc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c.ended <- s.Run(ctx, t.Context())
		close(c.ended)
	}()
	t.Cleanup(func() {
		cancel()
		for err := range c.ended {
			if err != nil {
				t.Error(err)
			}
		}
	})
	c.session = <-sessions
	if _, err := h.AwaitReceived(t.Context(), c.session, "heartbeat", 0); err != nil {
		t.Fatal(err)
	}
	return c
}

// expanding returns an environment with a secret, and placeholders that expand to a secret of
// the environment or of a file.
func expanding(t *testing.T) (environment map[string]string, placeholders []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"SM_APIKEY": "hunter2"}, []string{"${SM_APIKEY}", "${file:" + file + "}", "$${SM_APIKEY}", "%24${SM_APIKEY}"}
}

func TestCommands_ConfigureRepliesWithNoSecret(t *testing.T) {
	environment, placeholders := expanding(t)
	c := control(t, environment)
	for _, p := range placeholders {
		for _, url := range []string{
			"https://127.0.0.1:1/x?gzip=" + p, "https://127.0.0.1:1/" + p, "https://" + p + "/x", p, p + "://h/x",
			"kafka://127.0.0.1:1/t?timeout=100ms&" + p + "=1",
			"postgres://" + p + ":" + p + "@127.0.0.1:1/" + p + "?sslmode=" + p, "sqlite:///dev/null/" + p,
			"eventhub://127.0.0.1:1/;SharedAccessKeyName=n;SharedAccessKey=k;EntityPath=" + p,
			"snowflake-keypair://u@127.0.0.1:1/d/s?secret-key=SM_APIKEY",
		} {
			reply := c.ask("configure", map[string]any{"url": url})
			text := fmt.Sprint(reply)
			if reply["success"] == true && !strings.HasPrefix(url, "https:") || strings.Contains(text, "hunter2") {
				t.Errorf("%s: %s", url, text)
			}
		}
	}
}

// TestCommands_ConfigureKeepsURLAsWritten: names of destinations look like placeholders. The
// next start reads the same names.
func TestCommands_ConfigureKeepsURLAsWritten(t *testing.T) {
	environment, placeholders := expanding(t)
	lookup := func(name string) (string, bool) { value, ok := environment[name]; return value, ok }
	c := control(t, environment)
	for i, p := range placeholders {
		name := strings.ReplaceAll(strings.ReplaceAll(p, "%24", "$"), "/", "-")
		dir := t.TempDir()
		reply := c.ask("configure", map[string]any{"url": "file://" + dir + "/" + strings.ReplaceAll(p, "/", "-")})
		if reply["success"] != true || strings.Contains(fmt.Sprint(reply), "hunter2") {
			t.Fatalf("%s: %v", p, reply)
		}
		saved := c.configuration().URL.Reveal()
		_, target, err := drivers.Parse(saved, lookup)
		if err != nil {
			t.Fatalf("%s is saved as %s: %v", p, saved, err)
		}
		if want := dir + "/" + name; target.Path != want || drivers.MaskURL(saved) != reply["maskedURL"] {
			masked := drivers.MaskURL(saved)
			t.Errorf("%s is saved as %s: %s, want %s; masked %s, %v", p, saved, target.Path, want, masked, reply["maskedURL"])
		}
		c.notify("import", map[string]any{"backfill": true})
		received, err := c.hq.AwaitReceived(t.Context(), c.session, "import-response", i)
		if err != nil || received.Data["success"] != true {
			t.Errorf("%s: the import ends with %v, %v", p, received.Data, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != name {
			t.Errorf("%s: the destination is %v, %v", p, entries, err)
		}
	}
}

// TestCommands_ConfigureSendsNoSecretToTheDestination: HQ names files and identities of this
// machine, which eds would send to a destination of HQ's choice.
func TestCommands_ConfigureSendsNoSecretToTheDestination(t *testing.T) {
	c := control(t, nil)
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte("[default]\naws_secret_access_key = hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	passwords := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(passwords, []byte("*:*:*:*:hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSWORD", "hunter2")
	t.Setenv("PGPASSFILE", passwords)
	for _, url := range []string{
		"postgres://u@127.0.0.1:1/d?servicefile=" + file + "&service=default",
		"postgres://u@127.0.0.1:1/d?service=default", "postgres://u@127.0.0.1:1/d?passfile=" + file,
		"kafka://127.0.0.1:1/t?timeout=100ms&auth=oauthbearer&token-file=" + file,
		"sqlserver://127.0.0.1:1/d?fedauth=ActiveDirectoryWorkloadIdentity&TokenFilePath=" + file,
		"sqlserver://127.0.0.1:1/d?FedAuth=activedirectorydefault",
		"sqlserver://app:s@127.0.0.1:1/d?fedauth=ActiveDirectoryServicePrincipal&clientcertpath=" + file,
		"postgres://u@127.0.0.1:1/d", "postgres://u:@127.0.0.1:1/d", "postgres://127.0.0.1:1/d?user=u&password=",
		"eventhub://127.0.0.1:1/hub?auth=managed-identity", "kafka://127.0.0.1:1/t?timeout=100ms&auth=aws-msk-iam",
	} {
		reply := c.ask("configure", map[string]any{"url": url})
		if text := fmt.Sprint(reply); reply["success"] == true || !strings.Contains(text, "only the operator") ||
			strings.Contains(text, "hunter2") || strings.Contains(text, file) {
			t.Errorf("%s: %s", url, text)
		}
	}
}

func TestCommands_ValidateTakesFieldsAsWritten(t *testing.T) {
	environment, placeholders := expanding(t)
	c := control(t, environment)
	for _, d := range drivers.All() {
		for _, p := range placeholders {
			fields := make(map[string]any)
			for _, f := range d.Fields {
				fields[f.Name] = p
			}
			reply := c.ask("validate", map[string]any{"driver": d.Name, "config": fields})
			if strings.Contains(fmt.Sprint(reply), "hunter2") {
				t.Errorf("%s: %v", d.Name, reply)
			}
		}
	}
	dir := t.TempDir()
	reply := c.ask("validate", map[string]any{"driver": "file", "config": map[string]any{"Directory": dir + "/${SM_APIKEY}"}})
	if reply = c.ask("configure", map[string]any{"url": reply["url"]}); reply["success"] != true {
		t.Fatal(reply)
	}
	lookup := func(name string) (string, bool) { value, ok := environment[name]; return value, ok }
	_, target, err := drivers.Parse(c.configuration().URL.Reveal(), lookup)
	if err != nil || target.Path != dir+"/${SM_APIKEY}" {
		t.Errorf("the destination is %v, %v", target, err)
	}
}

func TestCommands_CommandsTakeTextAsWritten(t *testing.T) {
	environment, _ := expanding(t)
	c := control(t, environment)
	pongs, err := c.hq.Conn().SubscribeSync("_INBOX.${SM_APIKEY}")
	if err != nil {
		t.Fatal(err)
	}
	c.notify("ping", map[string]any{"subject": "_INBOX.${SM_APIKEY}"})
	if _, err := pongs.NextMsg(30 * time.Second); err != nil {
		t.Error(err)
	}
	c.notify("upgrade", map[string]any{"version": "${SM_APIKEY}"})
	received, err := c.hq.AwaitReceived(t.Context(), c.session, "upgrade-response", 0)
	if err != nil || received.Data["version"] != "${SM_APIKEY}" {
		t.Errorf("%v, %v", received.Data, err)
	}
}

// ask sends a command and returns the reply.
func (c *controlled) ask(action string, data any) map[string]any {
	c.t.Helper()
	reply := make(map[string]any)
	if err := c.hq.Request(c.t.Context(), c.session, action, data, &reply); err != nil {
		c.t.Fatal(err)
	}
	return reply
}

// notify sends a command that has no reply.
func (c *controlled) notify(action string, data any) {
	c.t.Helper()
	if err := c.hq.Notify(c.t.Context(), c.session, action, data); err != nil {
		c.t.Fatal(err)
	}
}

// configuration returns the contents of config.toml.
func (c *controlled) configuration() config.File {
	c.t.Helper()
	f, _, err := config.ReadFile(c.file)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

func TestCommands_ShutdownTakesDeletedAsText(t *testing.T) {
	c := control(t, nil)
	if err := config.Update(c.file, func(f *config.File) { f.ServerID = "s" }); err != nil {
		t.Fatal(err)
	}
	c.notify("shutdown", map[string]any{"message": "bye", "deleted": "true"})
	select {
	case err := <-c.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the server does not end")
	}
	if id := c.configuration().ServerID; id != "" {
		t.Errorf("the server id is still %q", id)
	}
}

func TestCommands_ConfigureTakesBackfillAsText(t *testing.T) {
	c := control(t, nil)
	reply := c.ask("configure", map[string]any{"url": "file://" + t.TempDir(), "backfill": "true"})
	if reply["success"] != true || reply["backfill"] != true {
		t.Errorf("the reply is %v", reply)
	}
}

func TestCommands_ImportTakesBackfillAsText(t *testing.T) {
	c := control(t, nil)
	c.ask("configure", map[string]any{"url": "file://" + t.TempDir()})
	c.notify("import", map[string]any{"backfill": "true"})
	received, err := c.hq.AwaitReceived(t.Context(), c.session, "import-response", 0)
	if err != nil {
		t.Fatal(err)
	}
	if received.Data["success"] != true {
		t.Errorf("the response is %v", received.Data)
	}
}

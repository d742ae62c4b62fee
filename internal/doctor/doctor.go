// Package doctor checks everything that eds needs. For each check it reports whether the
// checked part works, and a remedy if it does not.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/shirou/gopsutil/v4/disk"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

// Result is the result of a check.
type Result string

// Results of checks.
const (
	OK      Result = "ok"
	Warning Result = "warning" // works, but may stop working
	Failed  Result = "failed"
	Skipped Result = "skipped" // not checked, because an earlier check failed
)

// Check is the outcome of one check.
type Check struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Found  string `json:"found"`
	Do     string `json:"do,omitempty"` // remedy, for the operator
}

// Config is the configuration that Run checks.
type Config struct {
	Options config.ServerSettings
	Build   build.Info
	Lookup  sink.Lookup
	Logger  *slog.Logger
	// Running means that a server runs with the data directory. That server holds a session with
	// HQ, and starting another session would end the server's session. Warnings are the warnings
	// that this server reports.
	Running  bool
	Warnings []telemetry.Reason
	// Problem is the error from reading the configuration file, or nil.
	Problem error
}

const (
	// littleDisk is the free disk space in bytes below which a check warns.
	littleDisk = 1 << 30
	// soon is the remaining validity of a key below which a check warns.
	soon = 14 * 24 * time.Hour
	// skewed is the difference between two clocks above which a check warns.
	skewed = time.Minute
	// patience is the maximum time for each check that depends on another machine.
	patience = 30 * time.Second
)

// doctor is one run of the checks.
type doctor struct {
	Config
	report func(Check)

	key      hq.Key
	client   *hq.Client // nil until there is a key
	security *hq.Security
	insecure map[string]string // warnings about insecure connections, by peer
	apiURL   string
	reached  bool // HQ has answered
}

// Run performs all checks in the order of their dependencies, and calls the function report with
// each outcome immediately. Like a server, Run records which hosts use TLS. It leaves nothing else
// behind.
func Run(ctx context.Context, c Config, report func(Check)) {
	d := &doctor{Config: c, report: report, insecure: make(map[string]string)}
	for _, w := range c.Warnings {
		d.insecure[w.Condition] = w.Message
	}
	d.security = &hq.Security{
		Require: c.Options.RequireTLS, Hosts: tlshosts.In(c.Options.DataDir),
		Warn: func(peer, warning string) { d.insecure[peer] = warning },
	}
	d.dataDirectory()
	d.disk(ctx)
	d.configuration()
	d.apiKey()
	d.api(ctx)
	d.clock()
	d.nats(ctx)
	d.destination(ctx)
	if d.client != nil {
		d.client.Close()
	}
}

func (d *doctor) say(name string, result Result, found, do string) {
	d.report(Check{Name: name, Result: result, Found: found, Do: do})
}

func (d *doctor) dataDirectory() {
	const name = "data directory"
	dir := d.Options.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		d.say(name, Failed, err.Error(), "create it, or name another one with --data-dir")
		return
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err == nil {
		_, err = probe.WriteString("can this be written?")
		err = errors.Join(err, probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		do := "give it to the user that eds runs as: chown -R eds " + dir
		if errors.Is(err, syscall.ENOSPC) {
			do = "free space on its disk; meanwhile a server runs without a log and without new schemas"
		}
		d.say(name, Failed, fmt.Sprintf("%s cannot be written: %v", dir, err), do)
		return
	}
	found := dir
	if d.Running {
		found += ", used by a running server"
	}
	d.say(name, OK, found, "")
}

func (d *doctor) disk(ctx context.Context) {
	const name = "disk"
	usage, err := disk.UsageWithContext(ctx, d.Options.DataDir)
	switch {
	case err != nil:
		d.say(name, Warning, "the free space is not known: "+err.Error(), "")
	case usage.Free < littleDisk:
		d.say(name, Warning, fmt.Sprintf("%d MiB are free", usage.Free>>20),
			"free some space: an import stores its files there, and logs take up to 512 MiB")
	default:
		d.say(name, OK, fmt.Sprintf("%d GiB are free", usage.Free>>30), "")
	}
}

func (d *doctor) configuration() {
	const name = "configuration"
	file := d.Options.ConfigFile()
	switch info, err := os.Stat(file); {
	case d.Problem != nil:
		d.say(name, Failed, d.Problem.Error(), "correct it, or move it away and run: eds enroll CODE")
	case errors.Is(err, os.ErrNotExist):
		d.say(name, OK, "there is no "+file+"; eds uses only flags and the environment", "")
	case err != nil:
		d.say(name, Failed, err.Error(), "let the user that eds runs as read it")
	case info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/':
		d.say(name, Warning, fmt.Sprintf("%s contains secrets, and others may read it (mode %04o)", file, info.Mode().Perm()),
			"run: chmod 600 "+file)
	default:
		d.say(name, OK, file, "")
	}
}

func (d *doctor) apiKey() {
	const name = "api key"
	if d.Options.APIKey.IsZero() {
		d.say(name, Failed, "there is none", "run: eds enroll CODE, with the code that HQ shows")
		return
	}
	key, err := hq.ParseKey(d.Options.APIKey.Reveal())
	if err == nil {
		err = key.Check(time.Now())
	}
	if err == nil {
		d.apiURL, err = hq.BaseURL(d.Options.APIURL, key)
	}
	if err != nil {
		d.say(name, Failed, err.Error(), "run: eds enroll CODE, with a new code of HQ")
		return
	}
	d.key = key
	d.client = hq.New(hq.Options{
		BaseURL: d.apiURL, Key: key, Version: d.Build.Version, Logger: d.Logger, Patience: patience / 3,
		Security: d.security,
	})
	switch end := key.Expiry(); {
	case end.IsZero():
		d.say(name, OK, "it does not expire", "")
	case time.Until(end) < soon:
		d.say(name, Warning, "it expires on "+end.Format(time.DateOnly), "enrol again with a new code of HQ: eds enroll CODE")
	default:
		d.say(name, OK, "it is valid until "+end.Format(time.DateOnly), "")
	}
}

// api fetches the schemas from HQ, which also shows whether HQ accepts the key.
func (d *doctor) api(ctx context.Context) {
	const name, schemas = "HQ", "schema"
	if d.client == nil {
		d.say(name, Skipped, "there is no key", "")
		d.say(schemas, Skipped, "there is no key", "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tables, err := schema.NewCatalogue(d.client, forgetful{}).Latest(ctx)
	var malformed *schema.MalformedError
	d.reached = err == nil || errors.As(err, &malformed)
	switch {
	case d.reached && d.insecure["hq"] != "":
		d.say(name, Warning, d.apiURL+" answers and accepts the key; "+d.insecure["hq"], encrypt)
	case d.reached:
		d.say(name, OK, d.apiURL+" answers and accepts the key", "")
	case errors.As(err, new(*hq.InsecureError)):
		d.say(name, Failed, err.Error(), encrypt)
	case errors.As(err, new(*hq.Unauthorized)):
		d.say(name, Failed, err.Error(), "run: eds enroll CODE, with a new code of HQ")
	default:
		d.say(name, Failed, err.Error(), "check the network, a proxy (HTTPS_PROXY) and a firewall: "+d.apiURL+" has to be reachable")
	}
	switch {
	case !d.reached:
		d.say(schemas, Skipped, "HQ has not sent it", "")
	case malformed != nil:
		d.say(schemas, Warning, fmt.Sprintf("%d tables, and %d that cannot be used: %v", len(tables), len(malformed.Objects), err),
			"report it to HQ; the other tables work")
	default:
		d.say(schemas, OK, fmt.Sprintf("%d tables", len(tables)), "")
	}
}

// forgetful is a cache of schemas that stores nothing, because only a server may write to the
// cache in the data directory.
type forgetful struct{}

func (forgetful) LoadSchema(string, string) (json.RawMessage, bool, error) { return nil, false, nil }
func (forgetful) SaveSchema(string, string, json.RawMessage) error         { return nil }

func (d *doctor) clock() {
	const name = "clock"
	if !d.reached {
		d.say(name, Skipped, "HQ, whose clock is the reference, has not answered", "")
		return
	}
	if skew := d.client.Skew(); skew.Abs() > skewed {
		d.say(name, Warning, fmt.Sprintf("it differs from HQ's by %v", skew.Round(time.Second)),
			"synchronize it with NTP; keys and signed urls depend on it")
		return
	}
	d.say(name, OK, "it agrees with HQ's", "")
}

// nats starts a session, connects to NATS with the session's credential, and ends the session.
func (d *doctor) nats(ctx context.Context) {
	const name = "NATS"
	switch {
	case d.Running && d.insecure["nats"] != "":
		d.say(name, Warning, "the running server reports: "+d.insecure["nats"], encrypt)
		return
	case d.Running:
		d.say(name, Skipped, "the running server holds the session", "see: eds status")
		return
	case !d.reached:
		d.say(name, Skipped, "HQ, which issues the credential, has not answered", "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := hq.SessionStart{Version: d.Build.Version, ServerID: d.Options.ServerID, CompanyIDs: d.Options.CompanyIDs}
	hq.DescribeHost(ctx, &start)
	session, err := d.client.StartSession(ctx, start)
	if hq.Conflict(err) {
		d.say(name, Warning, "another server runs with this server's id, so no session could be started",
			"stop it if it should not run; each server needs its own id")
		return
	}
	if err != nil {
		d.say(name, Failed, err.Error(), "ask HQ why it starts no session, and name the request if there is one")
		return
	}
	defer func() {
		if _, err := d.client.EndSession(context.WithoutCancel(ctx), session.ID, false); err != nil {
			d.Logger.Warn("the session of the check could not be ended", "error", err)
		}
	}()
	servers := hq.Servers(strings.Join(d.Options.Servers, ","), d.apiURL)
	conn, err := hq.Connect(servers, session.Credential, d.security, nats.Name("eds doctor"))
	if err != nil {
		do := "check that no firewall blocks it"
		if errors.As(err, new(*hq.InsecureError)) {
			do = encrypt
		}
		d.say(name, Failed, fmt.Sprintf("connect to %s: %v", hq.Redacted(servers), err), do)
		return
	}
	defer conn.Close()
	server, companies := hq.Redacted(conn.ConnectedUrl()), len(session.Credential.CompanyIDs())
	accepts := fmt.Sprintf("%s accepts the credential, for %d companies", server, companies)
	switch warning := d.insecure["nats"]; {
	case companies == 0:
		d.say(name, Failed, server+" accepts the credential, which names no company", "ask HQ for access to one")
	case warning != "":
		d.say(name, Warning, accepts+"; "+warning, encrypt)
	default:
		d.say(name, OK, accepts, "")
	}
}

// encrypt is the remedy for a connection without TLS.
const encrypt = "have its owner set up TLS, then write require_tls = true into config.toml to require it"

// destination opens and probes the destination. The probe creates, writes and drops a table.
func (d *doctor) destination(ctx context.Context) {
	const name = "destination"
	raw := d.Options.URL.Reveal()
	if raw == "" {
		d.say(name, Failed, "there is none", "give one with --url, or configure it at HQ; see: eds server help")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	driver, destination, err := drivers.Open(ctx, raw, d.Lookup, sink.Env{
		Logger: d.Logger, Adjusted: func(string, string, string) {}, After: d.Options.UpdateStrategy == config.After,
	})
	if err == nil {
		err = errors.Join(destination.Probe(ctx), destination.Close(context.WithoutCancel(ctx)))
	}
	if err != nil {
		d.say(name, Failed, fmt.Sprintf("%s: %v", drivers.MaskURL(raw), err), strings.TrimSpace("see: eds server help "+driver.Name))
		return
	}
	d.say(name, OK, fmt.Sprintf("%s: %s works", drivers.MaskURL(raw), driver.Title), "")
}

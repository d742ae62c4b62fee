// Package doctor looks at everything that eds needs, one thing after the other,
// and says of each whether it works and what to do where it does not.
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

// Result is the outcome of a check.
type Result string

// The outcomes.
const (
	OK      Result = "ok"
	Warning Result = "warning" // it works, and may not for long
	Failed  Result = "failed"
	Skipped Result = "skipped" // it could not be looked at, because something before failed
)

// Check is what was found of one thing.
type Check struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Found  string `json:"found"`
	Do     string `json:"do,omitempty"` // what to do about it
}

// Config is what there is to look at.
type Config struct {
	Options config.Server
	Build   build.Info
	Lookup  sink.Lookup
	Logger  *slog.Logger
	// Running says that a server uses the data directory and holds a session,
	// which another one would end; Warnings are its own.
	Running  bool
	Warnings []telemetry.Reason
	// Problem is what is wrong with the configuration; nil: nothing.
	Problem error
}

const (
	// littleDisk is how much room on the disk is little, in bytes.
	littleDisk = 1 << 30
	// soon is how long before its end a key is worth a warning.
	soon = 14 * 24 * time.Hour
	// skewed is how far clocks may differ.
	skewed = time.Minute
	// patience bounds each check that asks somebody else.
	patience = 30 * time.Second
)

// doctor is one run of the checks.
type doctor struct {
	Config
	report func(Check)

	key      hq.Key
	client   *hq.Client // nil until there is a key
	security *hq.Security
	insecure map[string]string // warnings about connections, by what they lead to
	apiURL   string
	reached  bool // HQ has answered
}

// Run makes every check, in the order in which they build on each other, and
// reports each when it is made. It leaves nothing behind, but remembers which hosts
// use TLS, as the server does.
func Run(ctx context.Context, c Config, report func(Check)) {
	d := &doctor{Config: c, report: report, insecure: make(map[string]string)}
	for _, w := range c.Warnings {
		d.insecure[w.Condition] = w.Message
	}
	d.security = &hq.Security{
		Require: c.Options.RequireTLS, Hosts: tlshosts.In(c.Options.DataDir), Warn: func(peer, warning string) { d.insecure[peer] = warning },
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
		d.say(name, Failed, err.Error(), "make it by hand, or name another with --data-dir")
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
			do = "make room on its disk; a server goes on meanwhile, without a log and without new schemas"
		}
		d.say(name, Failed, fmt.Sprintf("%s can not be written to: %v", dir, err), do)
		return
	}
	found := dir
	if d.Running {
		found += ", used by a server that runs"
	}
	d.say(name, OK, found, "")
}

func (d *doctor) disk(ctx context.Context) {
	const name = "disk"
	usage, err := disk.UsageWithContext(ctx, d.Options.DataDir)
	switch {
	case err != nil:
		d.say(name, Warning, "how much room is left can not be told: "+err.Error(), "")
	case usage.Free < littleDisk:
		d.say(name, Warning, fmt.Sprintf("%d MiB are left", usage.Free>>20), "make room: an import keeps its files there, and logs take up to 512 MiB")
	default:
		d.say(name, OK, fmt.Sprintf("%d GiB are left", usage.Free>>30), "")
	}
}

func (d *doctor) configuration() {
	const name = "configuration"
	file := d.Options.ConfigFile()
	switch info, err := os.Stat(file); {
	case d.Problem != nil:
		d.say(name, Failed, d.Problem.Error(), "correct it, or move it away and run: eds enroll CODE")
	case errors.Is(err, os.ErrNotExist):
		d.say(name, OK, "there is no "+file+"; flags and the environment count alone", "")
	case err != nil:
		d.say(name, Failed, err.Error(), "let the user that eds runs as read it")
	case info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/':
		d.say(name, Warning, fmt.Sprintf("%s holds secrets, and others may read it (mode %04o)", file, info.Mode().Perm()), "run: chmod 600 "+file)
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
	d.client = hq.New(hq.Options{BaseURL: d.apiURL, Key: key, Version: d.Build.Version, Logger: d.Logger, Patience: patience / 3, Security: d.security})
	switch end := key.Expiry(); {
	case end.IsZero():
		d.say(name, OK, "it does not expire", "")
	case time.Until(end) < soon:
		d.say(name, Warning, "it expires on "+end.Format(time.DateOnly), "have HQ make a new one: eds enroll CODE")
	default:
		d.say(name, OK, "it is good until "+end.Format(time.DateOnly), "")
	}
}

// api asks HQ for the schema, which takes a key.
func (d *doctor) api(ctx context.Context) {
	const name, schemas = "HQ", "schema"
	if d.client == nil {
		d.say(name, Skipped, "there is no key to ask with", "")
		d.say(schemas, Skipped, "there is no key to ask HQ with", "")
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
		d.say(schemas, Skipped, "HQ has not told it", "")
	case malformed != nil:
		d.say(schemas, Warning, fmt.Sprintf("%d tables, and %d that can not be used: %v", len(tables), len(malformed.Objects), err), "tell HQ of it; the others work")
	default:
		d.say(schemas, OK, fmt.Sprintf("%d tables", len(tables)), "")
	}
}

// forgetful is a cache of schemas that keeps nothing: the one that does is the
// server's.
type forgetful struct{}

func (forgetful) LoadSchema(string, string) (json.RawMessage, bool, error) { return nil, false, nil }
func (forgetful) SaveSchema(string, string, json.RawMessage) error         { return nil }

func (d *doctor) clock() {
	const name = "clock"
	if !d.reached {
		d.say(name, Skipped, "it is compared with HQ's, which has not answered", "")
		return
	}
	if skew := d.client.Skew(); skew.Abs() > skewed {
		d.say(name, Warning, fmt.Sprintf("it differs from HQ's by %v", skew.Round(time.Second)), "have the machine set it by NTP; keys and signed urls depend on it")
		return
	}
	d.say(name, OK, "it agrees with HQ's", "")
}

// nats begins a session, because only that brings a credential, and ends it.
func (d *doctor) nats(ctx context.Context) {
	const name = "NATS"
	switch {
	case d.Running && d.insecure["nats"] != "":
		d.say(name, Warning, "of the server that runs: "+d.insecure["nats"], encrypt)
		return
	case d.Running:
		d.say(name, Skipped, "the server that runs holds the session", "see: eds status")
		return
	case !d.reached:
		d.say(name, Skipped, "HQ gives the credential for it, and has not answered", "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := hq.SessionStart{Version: d.Build.Version, ServerID: d.Options.ServerID, CompanyIDs: d.Options.CompanyIDs}
	hq.DescribeHost(ctx, &start)
	session, err := d.client.StartSession(ctx, start)
	if hq.Conflict(err) {
		d.say(name, Warning, "another server runs with this server's id, so no session could be begun", "stop it, if it should not; each server needs an id of its own")
		return
	}
	if err != nil {
		d.say(name, Failed, err.Error(), "ask HQ why it begins no session, and name the request where there is one")
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
		do := "check that a firewall lets this machine reach it"
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

// encrypt is what to do about a connection that does not use TLS.
const encrypt = "have its owner set up TLS, then write require_tls = true into config.toml, so that it stays"

// destination opens the destination, and has it make, write and drop a table.
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

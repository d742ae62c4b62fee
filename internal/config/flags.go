package config

import (
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Names of the environment variables.
const (
	envAPIKey = "SM_APIKEY"
	envPort   = "PORT"
)

// CommonFlags are the flags that every command has.
type CommonFlags struct {
	value  Common
	format string
}

// BindCommon adds the flags of every command to fs.
func BindCommon(fs *pflag.FlagSet) *CommonFlags {
	f := new(CommonFlags)
	fs.StringVarP(&f.value.DataDir, "data-dir", "d", "",
		"`directory` of state, logs and configuration, created if missing (default \"data\" in the working directory)")
	fs.BoolVarP(&f.value.Verbose, "verbose", "v", false, "also log debug messages")
	fs.BoolVarP(&f.value.Silent, "silent", "s", false, "log errors only; the log file still has everything")
	fs.BoolVarP(&f.value.Timestamp, "timestamp", "t", false, "begin each log line on a terminal with the time")
	fs.StringVar(&f.value.LogLabel, "log-label", "", "a `label` in each log line, to distinguish servers")
	fs.StringVar(&f.format, "log-format", "", "`format` of log lines, text or json (default text on a terminal, json elsewhere)")
	fs.StringVar(&f.value.CPUProfile, "cpu-profile", "", "`file` to write a CPU profile of the whole run to")
	_ = fs.MarkHidden("cpu-profile") // fails only for an unknown flag
	return f
}

// Resolve returns the values of the flags. A relative data directory is relative to workingDir.
func (f *CommonFlags) Resolve(workingDir string) (Common, error) {
	var p problems
	c := f.value
	c.DataDir = filepath.Clean(first(c.DataDir, "data"))
	if !filepath.IsAbs(c.DataDir) {
		c.DataDir = filepath.Join(workingDir, c.DataDir)
	}
	c.LogFormat = try(&p, "--log-format", f.format, parseFormat)
	return c, p.join()
}

// HQFlags are the flags of commands that call HQ.
type HQFlags struct {
	fs             *pflag.FlagSet
	apiKey, apiURL string
	requireTLS     bool
}

// BindAPIURL adds --api-url and --require-tls to fs, for commands that call HQ without a key.
func BindAPIURL(fs *pflag.FlagSet) *HQFlags {
	f := &HQFlags{fs: fs}
	fs.StringVar(&f.apiURL, "api-url", "", "base `URL` of HQ's API (default: from the key or the code)")
	fs.BoolVar(&f.requireTLS, "require-tls", false,
		"refuse HQ's API and NATS if they do not use TLS (default: refuse hosts that have used it before, and Shopmonkey's own)")
	return f
}

// BindHQ adds --api-key and the flags of BindAPIURL to fs.
func BindHQ(fs *pflag.FlagSet) *HQFlags {
	f := BindAPIURL(fs)
	fs.StringVar(&f.apiKey, "api-key", "",
		"HQ `key`; the environment variable "+envAPIKey+" is safer (default: the key that eds enroll wrote)")
	return f
}

// Resolve returns the configuration for calls to HQ from the flags, the environment and the
// file.
func (f *HQFlags) Resolve(env Lookup, file File) (HQSettings, error) {
	var p problems
	hq := HQSettings{
		APIKey:     NewSecret(first(strings.TrimSpace(f.apiKey), fromEnv(env, envAPIKey), file.Token.Reveal())),
		APIURL:     try(&p, "--api-url", f.apiURL, ParseAPIURL),
		RequireTLS: file.RequireTLS,
	}
	if f.fs.Changed("require-tls") {
		hq.RequireTLS = &f.requireTLS
	}
	return hq, p.join()
}

// destinationFlags are the flags that import, server and verify have in common.
type destinationFlags struct {
	*HQFlags
	url, schemaValidator string
	companyIDs           []string
}

func bindDestination(fs *pflag.FlagSet) destinationFlags {
	return destinationFlags{HQFlags: BindHQ(fs)}
}

func (f *destinationFlags) bind(fs *pflag.FlagSet) {
	fs.StringVar(&f.url, "url", "", "destination `url`, as in postgres://user:${PASSWORD}@host:5432/database; see: eds server help")
	fs.StringVar(&f.schemaValidator, "schema-validator", "",
		"`directory` of JSON Schemas; changes that have none or fail theirs are skipped")
	fs.StringSliceVar(&f.companyIDs, "companyIds", nil,
		"only companies of these `ids`, separated by commas (default: all companies that the key may read)")
}

func (f *destinationFlags) destination(file File) Secret {
	return NewSecret(first(strings.TrimSpace(f.url), file.URL.Reveal()))
}

// ServerFlags are the flags of "eds server".
type ServerFlags struct {
	destinationFlags
	server         []string
	port           int
	host           string
	serverID       string
	consumerSuffix string
	keepLogs       bool
	restart        bool
	noRestart      bool
	renewInterval  time.Duration
	heal           string
	backfill       bool

	maxAckPending, maxPendingBuffer      int
	minPendingLatency, maxPendingLatency time.Duration
}

// BindServer adds the flags of "eds server" to fs, except for the common flags.
func BindServer(fs *pflag.FlagSet) *ServerFlags {
	f := &ServerFlags{destinationFlags: bindDestination(fs)}
	f.bind(fs)
	fs.StringVar(&f.host, "host", "", "`address` that health and metrics listen on (default all interfaces)")
	numberVar(fs, &f.port, "port", DefaultPort, "`port` of health and metrics, 0 for any free one (environment: "+envPort+")")
	numberVar(fs, &f.port, "health-port", DefaultPort, "the former name of --port")
	fs.StringSliceVar(&f.server, "server", nil, "`urls` of NATS servers, separated by commas (default: HQ's)")
	fs.StringVar(&f.serverID, "eds-id", "", "`id` of this server at HQ (default: from the key)")
	fs.StringVar(&f.consumerSuffix, "consumer-suffix", "", "`suffix` of the consumer's name, to follow the stream a second time")
	fs.BoolVar(&f.keepLogs, "keep-logs", false, "keep log files after they were sent to HQ")
	fs.BoolVar(&f.restart, "restart", false, "start a new consumer at the beginning of the stream instead of its end")
	fs.BoolVar(&f.noRestart, "no-restart", false, "exit if the worker process ends, instead of restarting it")
	durationVar(fs, &f.renewInterval, "renew-interval", 24*time.Hour, "time after which a session with HQ is renewed")
	fs.StringVar(&f.heal, "heal", "",
		"`which` missing or incomplete tables to import automatically: tables (unless all are lost), all or off (default tables)")
	fs.BoolVar(&f.backfill, "backfill-new-tables", true,
		"import tables that are new at HQ, instead of following only their changes")
	numberVar(fs, &f.maxAckPending, "maxAckPending", 0, "maximum number of changes that are delivered and not applied (default 25000)")
	numberVar(fs, &f.maxPendingBuffer, "maxPendingBuffer", 0, "maximum number of changes per batch (default: depends on the destination)")
	durationVar(fs, &f.minPendingLatency, "minPendingLatency", 0, "minimum time to fill a batch while more changes wait")
	durationVar(fs, &f.maxPendingLatency, "maxPendingLatency", 0, "maximum time to fill a batch")
	// The flag exists, so this cannot fail.
	_ = fs.MarkDeprecated("health-port", "use --port")
	bindWrapper(fs)
	return f
}

// WrapperFlag is the name of a flag that the parent process of the reference server always
// passes to the program.
const WrapperFlag = "wrapper"

// bindWrapper adds the flags that the parent process of the reference server passes in addition
// to the user's flags. Their values are ignored.
func bindWrapper(fs *pflag.FlagSet) {
	fs.Bool(WrapperFlag, false, "run under the parent process of the reference server")
	fs.String("parent", "", "`port` of that process")
	fs.String("log-file-sink", "", "`file` of its log")
	fs.Lookup("log-file-sink").NoOptDefVal = "true" // the flag is also passed without a value
	for _, name := range []string{WrapperFlag, "parent", "log-file-sink"} {
		_ = fs.MarkHidden(name) // fails only for an unknown flag
	}
}

// Resolve returns the configuration of "eds server".
func (f *ServerFlags) Resolve(common Common, env Lookup, file File) (ServerSettings, error) {
	var p problems
	hq, err := f.HQFlags.Resolve(env, file)
	p.add(err)
	s := ServerSettings{
		Common: common, HQSettings: hq,
		URL: f.destination(file), URLGiven: strings.TrimSpace(f.url) != "",
		UpdateStrategy: first(file.UpdateStrategy, Standard), SchemaValidator: f.schemaValidator,
		Host: strings.Trim(strings.TrimSpace(f.host), "[]"), Port: f.resolvePort(&p, env),
		ServerID: first(strings.TrimSpace(f.serverID), file.ServerID), ConsumerSuffix: strings.TrimSpace(f.consumerSuffix),
		CompanyIDs: list(f.companyIDs), Restart: f.restart, NoRestart: f.noRestart, KeepLogs: f.keepLogs,
		RenewInterval: f.renewInterval, MaxAckPending: f.maxAckPending, MaxPendingBuffer: f.maxPendingBuffer,
		MinPendingLatency: f.minPendingLatency, MaxPendingLatency: f.maxPendingLatency,
		BackfillNewTables: f.backfill,
	}
	if !f.fs.Changed("backfill-new-tables") && file.BackfillNewTables != nil {
		s.BackfillNewTables = *file.BackfillNewTables
	}
	s.Heal = try(&p, "--heal", first(strings.TrimSpace(f.heal), string(file.Heal)), ParseHeal)
	if !f.fs.Changed("keep-logs") {
		s.KeepLogs = file.KeepLogs
	}
	s.Servers = try(&p, "--server", list(f.server), parseServers)
	p.check("--host", checkHost(s.Host))
	p.check("--eds-id", checkToken(s.ServerID))
	p.check("--consumer-suffix", checkToken(s.ConsumerSuffix))
	p.check("--companyIds", checkIDs(s.CompanyIDs))
	p.check("--companyIds", checkGiven(f.fs, "companyIds", len(s.CompanyIDs) == 0))
	p.check("--maxAckPending", f.checkCount("maxAckPending", s.MaxAckPending, maxAckPending))
	p.check("--maxPendingBuffer", f.checkCount("maxPendingBuffer", s.MaxPendingBuffer, maxPendingBuffer))
	p.check("--renew-interval", checkDuration(s.RenewInterval, time.Second, 30*24*time.Hour))
	p.check("--minPendingLatency", checkDuration(s.MinPendingLatency, 0, time.Hour))
	p.check("--maxPendingLatency", checkDuration(s.MaxPendingLatency, 0, time.Hour))
	if s.MaxPendingLatency > 0 && s.MinPendingLatency > s.MaxPendingLatency {
		p.check("--minPendingLatency", errors.New("it is longer than --maxPendingLatency"))
	}
	return s, p.join()
}

// Upper limits for the values of --maxAckPending and --maxPendingBuffer. Values far below these
// bounds already use much memory.
const (
	maxAckPending    = 1_000_000
	maxPendingBuffer = 1_000_000
)

func (f *ServerFlags) checkCount(name string, n, most int) error {
	if !f.fs.Changed(name) {
		return nil
	}
	return checkRange(n, 1, most)
}

// resolvePort returns the port from --port or --health-port if one of them is set. Otherwise it
// returns the port from the environment, or the default.
func (f *ServerFlags) resolvePort(p *problems, env Lookup) int {
	if f.fs.Changed("port") || f.fs.Changed("health-port") {
		p.check("--port", checkRange(f.port, 0, 65535))
		return f.port
	}
	if text := fromEnv(env, envPort); text != "" {
		return try(p, envPort+" in the environment", text, parsePort)
	}
	return DefaultPort
}

// ImportFlags are the flags of "eds import".
type ImportFlags struct {
	destinationFlags
	value             ImportSettings
	timeOffset        string
	only, locationIDs []string
}

// BindImport adds the flags of "eds import" to fs, except for the common flags.
func BindImport(fs *pflag.FlagSet) *ImportFlags {
	f := &ImportFlags{destinationFlags: bindDestination(fs)}
	f.bind(fs)
	v := &f.value
	fs.StringVar(&v.JobID, "job-id", "", "`id` of the export job to continue (default: the unfinished job, else a new one)")
	fs.StringVar(&v.Dir, "dir", "", "`directory` with export files to load instead of downloading them")
	fs.StringVar(&v.DownloadDir, "download-dir", "",
		"`directory` to download export files into and keep them (default: the data directory, until they are loaded)")
	fs.BoolVar(&v.DryRun, "dry-run", false, "print the steps without changing anything")
	fs.BoolVar(&v.NoConfirm, "no-confirm", false, "do not ask before data is replaced")
	fs.BoolVar(&v.NoCleanup, "no-cleanup", false, "keep the downloaded files")
	fs.BoolVar(&v.NoDelete, "no-delete", false, "update the existing rows instead of replacing the tables")
	fs.BoolVar(&v.AllowEmpty, "allow-empty", false, "empty tables that have no rows in the snapshot, instead of keeping them")
	fs.BoolVar(&v.Strict, "strict", false, "fail a table if one of its rows cannot be loaded, instead of leaving the row out")
	fs.BoolVar(&v.SchemaOnly, "schema-only", false, "create the tables without loading rows")
	fs.BoolVar(&v.ValidateOnly, "validate-only", false, "check the key and write access to the destination, and leave nothing there")
	fs.StringVar(&f.timeOffset, "timeOffset", "", "only rows changed since this `time`, like 2026-01-31T00:00:00Z")
	numberVar(fs, &v.Parallel, "parallel", 4, "number of tables to load at a time")
	fs.BoolVar(&v.Single, "single", false, "one table at a time, like --parallel 1")
	fs.StringSliceVar(&f.only, "only", nil, "only these `tables`, separated by commas")
	fs.StringSliceVar(&f.locationIDs, "locationIds", nil, "only locations of these `ids`, separated by commas")
	return f
}

// BindVerify adds the flags of "eds verify" to fs, except for the common flags. They are the subset
// of the flags of "eds import" that selects rows.
func BindVerify(fs *pflag.FlagSet) *ImportFlags {
	f := &ImportFlags{destinationFlags: bindDestination(fs)}
	f.bind(fs)
	fs.BoolVar(&f.value.NoConfirm, "no-confirm", false, "do not ask before --repair replaces data")
	numberVar(fs, &f.value.Parallel, "parallel", 4, "number of tables to compare at a time")
	fs.StringSliceVar(&f.only, "only", nil, "only these `tables`, separated by commas")
	return f
}

// ReadOnly reports whether the flags request a dry run or a validation, which change nothing.
func (f *ImportFlags) ReadOnly() bool { return f.value.DryRun || f.value.ValidateOnly }

// Resolve returns the configuration of "eds import".
func (f *ImportFlags) Resolve(common Common, env Lookup, file File) (ImportSettings, error) {
	var p problems
	hq, err := f.HQFlags.Resolve(env, file)
	p.add(err)
	i := f.value
	i.Common, i.HQSettings = common, hq
	i.URL, i.UpdateStrategy, i.SchemaValidator = f.destination(file), first(file.UpdateStrategy, Standard), f.schemaValidator
	i.JobID = strings.TrimSpace(i.JobID)
	i.CompanyIDs, i.LocationIDs, i.Only = list(f.companyIDs), list(f.locationIDs), list(f.only)
	if text := strings.TrimSpace(f.timeOffset); text != "" {
		i.TimeOffset = try(&p, "--timeOffset", text, parseTime)
	}
	flags := f.fs
	for _, f := range []struct {
		name, text string
		values     int
	}{
		{name: "job-id", text: i.JobID},
		{name: "dir", text: i.Dir},
		{name: "download-dir", text: i.DownloadDir},
		{name: "timeOffset", text: f.timeOffset},
		{name: "only", values: len(i.Only)},
		{name: "companyIds", values: len(i.CompanyIDs)},
		{name: "locationIds", values: len(i.LocationIDs)},
	} {
		p.check("--"+f.name, checkGiven(flags, f.name, strings.TrimSpace(f.text) == "" && f.values == 0))
	}
	if f.fs.Changed("url") && strings.TrimSpace(f.url) == "" {
		i.URL = Secret{} // an explicitly empty --url does not mean the URL of the file
	}
	if i.Dir != "" && i.DownloadDir != "" {
		p.check("--dir", errors.New("it is for downloaded files, and --download-dir for files to download; leave one out"))
	}
	p.check("--job-id", checkToken(i.JobID))
	p.check("--only", checkTables(i.Only))
	p.check("--companyIds", checkIDs(i.CompanyIDs))
	p.check("--locationIds", checkIDs(i.LocationIDs))
	p.check("--parallel", checkRange(i.Parallel, 1, 64))
	if i.Single {
		i.Parallel = 1
	}
	return i, p.join()
}

// fromEnv returns the trimmed value of an environment variable, or "" if the variable is not
// set.
func fromEnv(env Lookup, name string) string {
	value, _ := env(name)
	return strings.TrimSpace(value)
}

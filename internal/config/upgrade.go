package config

import (
	"errors"

	"github.com/spf13/pflag"
)

// ReleaseFlags are the flags of commands that download releases.
type ReleaseFlags struct{ value Release }

// Release is the configuration of commands that download releases. Treat it as immutable.
type Release struct {
	KeyFile string // file with the public keys; "" means the built-in key
	URL     string // base URL of the releases, without a version; "" means the default
}

// BindRelease adds the flags of commands that download releases to fs.
func BindRelease(fs *pflag.FlagSet) *ReleaseFlags {
	f := new(ReleaseFlags)
	fs.StringVar(&f.value.KeyFile, "key", "",
		"`file` with the PGP public keys that may sign releases (default: the built-in key, see eds publickey)")
	fs.StringVar(&f.value.URL, "releases-url", "",
		"base `URL` of releases, to which the version is appended (default: the releases of eds)")
	return f
}

// Resolve returns the values of the flags.
func (f *ReleaseFlags) Resolve() Release { return f.value }

// UpgradeSettings is the configuration of "eds upgrade". Treat it as immutable.
type UpgradeSettings struct {
	Release
	AllowDowngrade, DryRun bool
	// At most one of these is set.
	Rollback, Accept bool
}

// UpgradeFlags are the flags of "eds upgrade".
type UpgradeFlags struct {
	*ReleaseFlags
	value UpgradeSettings
}

// BindUpgrade adds the flags of "eds upgrade" to fs, except for the common flags.
func BindUpgrade(fs *pflag.FlagSet) *UpgradeFlags {
	f := &UpgradeFlags{ReleaseFlags: BindRelease(fs)}
	fs.BoolVar(&f.value.DryRun, "dry-run", false, "print the steps and do nothing")
	fs.BoolVar(&f.value.AllowDowngrade, "allow-downgrade", false, "also accept an older version, or the installed one")
	fs.BoolVar(&f.value.Rollback, "rollback", false, "return to the version before the last upgrade")
	fs.BoolVar(&f.value.Accept, "accept", false, "end the probation of the last upgrade, and keep it")
	return f
}

// Resolve returns the configuration of "eds upgrade".
func (f *UpgradeFlags) Resolve() (UpgradeSettings, error) {
	var p problems
	u := f.value
	u.Release = f.ReleaseFlags.Resolve()
	if u.Rollback && u.Accept {
		p.check("--rollback", errors.New("it cannot be combined with --accept"))
	}
	return u, p.join()
}

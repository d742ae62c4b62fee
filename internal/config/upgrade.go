package config

import (
	"errors"

	"github.com/spf13/pflag"
)

// ReleaseFlags are the flags of commands that download releases.
type ReleaseFlags struct{ value Release }

// Release is what a command needs that downloads releases. Treat it as immutable.
type Release struct {
	KeyFile string // of the public keys; "" for the built-in one
	URL     string // below which releases are; "" for the default
}

// BindRelease adds the flags of commands that download releases to fs.
func BindRelease(fs *pflag.FlagSet) *ReleaseFlags {
	f := new(ReleaseFlags)
	fs.StringVar(&f.value.KeyFile, "key", "", "`file` with the PGP public keys that releases may be signed by (default: the built-in one, see eds publickey)")
	fs.StringVar(&f.value.URL, "releases-url", "", "`URL` below which releases are, each under its version (default: where eds is released)")
	return f
}

// Resolve returns what the flags say.
func (f *ReleaseFlags) Resolve() Release { return f.value }

// Upgrade is the configuration of "eds upgrade". Treat it as immutable.
type Upgrade struct {
	Release
	AllowDowngrade, DryRun bool
	// At most one of them is set.
	Rollback, Accept bool
}

// UpgradeFlags are the flags of "eds upgrade".
type UpgradeFlags struct {
	*ReleaseFlags
	value Upgrade
}

// BindUpgrade adds the flags of "eds upgrade" to fs, without the common ones.
func BindUpgrade(fs *pflag.FlagSet) *UpgradeFlags {
	f := &UpgradeFlags{ReleaseFlags: BindRelease(fs)}
	fs.BoolVar(&f.value.DryRun, "dry-run", false, "say what would be done and do nothing")
	fs.BoolVar(&f.value.AllowDowngrade, "allow-downgrade", false, "accept an older version too, and the one that is in place")
	fs.BoolVar(&f.value.Rollback, "rollback", false, "go back to the program before the last upgrade")
	fs.BoolVar(&f.value.Accept, "accept", false, "end the probation of the last upgrade, and keep it")
	return f
}

// Resolve returns the configuration of "eds upgrade".
func (f *UpgradeFlags) Resolve() (Upgrade, error) {
	var p problems
	u := f.value
	u.Release = f.ReleaseFlags.Resolve()
	if u.Rollback && u.Accept {
		p.check("--rollback", errors.New("it can't be done together with --accept"))
	}
	return u, p.join()
}

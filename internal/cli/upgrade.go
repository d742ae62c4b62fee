package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/selfupdate"
)

func newUpgrade(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade [VERSION]",
		Short: "Upgrade this program to another version",
		Long: `Downloads a release, by default the newest, verifies its PGP signature and its
version, and replaces this program with it. The old program is kept with the suffix
.old. The new program is on probation until a server has run with it for a while; see
docs/upgrade.md. In a container, run another image instead.`,
		Example: `  eds upgrade
  eds upgrade 1.2.3 --dry-run
  eds upgrade 1.2.3
  eds upgrade --rollback`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one version, but got %q too", cmd.CommandPath(), args[1])
			}
			return nil
		},
	}
	flags := config.BindUpgrade(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := flags.Resolve()
		if err != nil {
			return usage(err)
		}
		if len(args) == 1 && (o.Rollback || o.Accept) {
			return usagef("%s: --rollback and --accept apply to the last upgrade, and take no version", cmd.CommandPath())
		}
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		u, err := observedUpdater(p, s, o.Release, o.AllowDowngrade, progressOf(s))
		if err != nil {
			return err
		}
		up := &upgradeCommand{Updater: u, out: out(cmd), dry: o.DryRun}
		switch {
		case o.Rollback:
			return up.rollback(cmd.Context())
		case o.Accept:
			return up.accept()
		}
		if len(args) == 0 {
			return up.newest(cmd.Context())
		}
		return up.upgrade(cmd.Context(), args[0])
	}
	return cmd
}

// upgradeCommand performs the actions of "eds upgrade".
type upgradeCommand struct {
	*selfupdate.Updater
	out io.Writer
	dry bool
}

// newest upgrades to the newest release, unless this program is newer.
func (u *upgradeCommand) newest(ctx context.Context) error {
	version, err := newest(ctx, u.Updater)
	if err != nil {
		return err
	}
	err = u.upgrade(ctx, version)
	if errors.Is(err, selfupdate.ErrDowngrade) {
		return u.say("Nothing to do: the newest release is %s, and this program is newer.\n", version)
	}
	return err
}

func (u *upgradeCommand) upgrade(ctx context.Context, version string) error {
	if _, err := selfupdate.ParseVersion(version); err != nil {
		return usageError{err}
	}
	plan, err := u.Plan(version)
	if err != nil {
		return u.refused(err)
	}
	if u.dry {
		return u.printPlan(plan)
	}
	staged, err := u.Stage(ctx, version)
	if err != nil {
		return u.refused(err)
	}
	if err := staged.Swap(); err != nil {
		return errors.Join(err, staged.Discard())
	}
	_, err = fmt.Fprintf(u.out, `%[1]s is now eds %[2]s; %[3]s is kept as %[4]s.

Restart the server to run it. If it is not healthy within a minute, or fails in the next five
minutes, the server goes back to %[3]s. To decide yourself:

  eds upgrade --rollback    go back
  eds upgrade --accept      keep it in any case
`, plan.Program, plan.To, plan.From, plan.Old)
	return err
}

// refused adds a remedy and an exit code to err. If the requested version is already installed,
// refused prints that and returns nil.
func (u *upgradeCommand) refused(err error) error {
	switch {
	case errors.Is(err, selfupdate.ErrCurrent):
		_, err = fmt.Fprintf(u.out, "Nothing to do: %v.\n", err)
		return err
	case errors.Is(err, selfupdate.ErrDowngrade), errors.Is(err, selfupdate.ErrIncomparable):
		return usagef("%w: pass --allow-downgrade", err)
	case errors.Is(err, selfupdate.ErrOnProbation):
		return fmt.Errorf("%w: pass --accept or --rollback", err)
	}
	return err
}

// printPlan prints the steps of an upgrade.
func (u *upgradeCommand) printPlan(plan selfupdate.Plan) error {
	step := "Would upgrade"
	if plan.Downgrade {
		step = "Would downgrade"
	}
	return u.say(`%s from %s to %s:

  download   %s
  signature  %s
  signed by  %s
  replace    %s
  keep       %s

Nothing was changed or downloaded.
`, step, plan.From, plan.To, plan.Archive, plan.Signature, strings.Join(plan.Signers, "\n             "), plan.Program, plan.Old)
}

func (u *upgradeCommand) rollback(ctx context.Context) error {
	if u.dry {
		return u.say("Would replace %[2]s with %[1]s. Nothing was changed.\n", u.Old(), u.Target())
	}
	if err := u.Rollback(ctx, "requested on the command line"); err != nil {
		return err
	}
	status, err := u.Recover()
	if err != nil {
		return err
	}
	if err := u.Commit(); err != nil {
		return err
	}
	return u.say("%s is eds %s again. Restart the server to run it.\n", u.Target(), status.From)
}

func (u *upgradeCommand) accept() error {
	status, err := u.Status()
	if err != nil {
		return err
	}
	if status.State != selfupdate.Probation {
		return u.say("No upgrade is on probation.\n")
	}
	if u.dry {
		return u.say("Would keep %s. Nothing was changed.\n", status.To)
	}
	if err := u.Commit(); err != nil {
		return err
	}
	return u.say("eds %s is kept.\n", status.To)
}

func (u *upgradeCommand) say(format string, args ...any) error {
	_, err := fmt.Fprintf(u.out, format, args...)
	return err
}

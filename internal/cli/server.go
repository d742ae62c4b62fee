package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/agent"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func newServer(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Follow every change into the destination",
		Long: `Follows the stream of changes into the destination, from the end of the last import
or run, until you stop it. If the network or the destination is down, it waits and
retries, for as long as it takes.

Health is at http://<host>:<port>/ and metrics are at /metrics.`,
		Example: `  eds server --url 'postgres://user:${PASSWORD}@host:5432/database'
  eds server help postgres`,
		Args: noArgs,
	}
	flags := bindServer(common, cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, flags.common, "")
		if err != nil {
			return err
		}
		defer s.close()
		o, err := flags.resolve(p, s)
		if err != nil {
			return err
		}
		if server.NeedsEnrolment(o) {
			if err := enrollAtTerminal(cmd.Context(), p, s, o.HQSettings); err != nil {
				return err
			}
		}
		return supervise(cmd.Context(), p, s, o, flags)
	}
	cmd.AddCommand(newDriverHelp(p))
	return cmd
}

// serverFlagSets are the flags of eds server and its worker.
type serverFlagSets struct {
	common   *config.CommonFlags
	server   *config.ServerFlags
	releases *config.ReleaseFlags
}

// bindServer adds the flags of eds server to fs, except for the common flags.
func bindServer(common *config.CommonFlags, fs *pflag.FlagSet) serverFlagSets {
	return serverFlagSets{common, config.BindServer(fs), config.BindRelease(fs)}
}

func (f serverFlagSets) release() config.Release { return f.releases.Resolve() }

func (f serverFlagSets) resolve(p Process, s *setup) (config.ServerSettings, error) {
	o, err := f.server.Resolve(s.common, config.Lookup(p.Lookup), s.file)
	return o, usage(err)
}

// predecessor is the maximum time that a server waits for the data directory if the previous
// server has not ended yet. It is longer than the maximum time that a worker continues after its
// parent has ended.
const predecessor = orphanLimit + 15*time.Second

// follow runs the server until the context soft is done or the server cannot continue. If the
// context hard is done, the server stops at once. The caller does not set all fields of c, because
// follow sets the others.
func follow(soft, hard context.Context, p Process, s *setup, c server.Config) error {
	o := c.Options
	dir, err := state.Await(soft, s.common.DataDir, predecessor, func() {
		s.logger.Warn("another eds uses the data directory; waiting for it to end", "data", s.common.DataDir)
	})
	if errors.Is(err, state.ErrInUse) && soft.Err() != nil {
		return nil // nothing has started
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	health := c.Health
	registry := telemetry.NewRegistry(s.build, health)
	c.Build, c.State, c.Lookup, c.Registry = s.build, dir, p.Lookup, registry
	c.Logger, c.Log, c.PID = s.logger, s.log, os.Getpid()
	worker, err := server.New(c)
	if err != nil {
		return refused(err)
	}
	web, err := telemetry.Listen(hard, telemetry.HTTPOptions{
		Host: o.Host, Port: o.Port, Health: health, Metrics: registry, Build: s.build, Logger: s.logger,
	})
	if err != nil {
		return err
	}
	s.logger.Info("eds is starting",
		"version", s.build.Version, "data", s.common.DataDir, "health", fmt.Sprintf("http://%s/", reachable(web.Addr())))

	serving, stop := context.WithCancel(context.WithoutCancel(hard))
	var g errgroup.Group
	g.Go(func() error { return web.Run(serving) })
	if socket, err := control.Listen(hard, s.common.DataDir); err != nil {
		s.logger.Warn("eds status and eds import cannot reach this server", "error", err)
	} else {
		g.Go(func() error { return control.Serve(serving, socket, worker) })
	}
	err = worker.Run(soft, hard)
	stop()
	switch {
	case errors.As(err, new(*reconciler.DestinationError)):
		err = usageError{err}
	case errors.Is(err, agent.ErrReplaced):
		return errors.Join(g.Wait(), err)
	}
	if err = errors.Join(err, g.Wait()); err != nil {
		s.logger.Error("eds stops", "error", err)
		return printedError{err}
	}
	s.logger.Info("eds has stopped; all received changes are applied")
	return nil
}

// reachable returns the address at which programs on this machine can reach a listener with the
// address a.
func reachable(a *net.TCPAddr) string {
	if a.IP.IsUnspecified() {
		return net.JoinHostPort("localhost", strconv.Itoa(a.Port))
	}
	return a.String()
}

// refused turns a fatal error at the start of a command into a usageError, because only the
// operator can fix such an error.
func refused(err error) error {
	if err != nil && fault.Of(err) == fault.Fatal {
		return usageError{err}
	}
	return err
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/hq"
)

func newEnroll(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enroll CODE",
		Short: "Enrol this machine at HQ with a one-time code",
		Long: `Redeems a one-time code for an API key and a server id, and stores both in
config.toml in the data directory, for eds import and eds server.`,
		Example: "  eds enroll P1234ABCD",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
				return usagef("%s needs one argument, the code that HQ shows; as in: eds enroll P1234ABCD", cmd.CommandPath())
			}
			return nil
		},
	}
	api := config.BindAPIURL(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		o, err := api.Resolve(config.Lookup(p.Lookup), s.file)
		if err != nil {
			return usage(err)
		}
		e, err := enroll(cmd.Context(), s, o, strings.TrimSpace(args[0]))
		if err != nil {
			return err
		}
		fmt.Fprintf(
			out(cmd),
			"Enrolled as server %s. Next:\n\n  eds import --url <destination>\n  eds server --url "+
				"<destination>\n\nSee the destinations with: eds server help\n",
			e.ServerID,
		)
		return nil
	}
	return cmd
}

// enroll exchanges a one-time code for a key, and stores the key. Because the code cannot be used
// again, enroll first checks that the key can be stored.
func enroll(ctx context.Context, s *setup, o config.HQSettings, code string) (hq.Enrolment, error) {
	base, err := hq.EnrollURL(o.APIURL, code)
	if err != nil {
		return hq.Enrolment{}, usageError{err}
	}
	file, err := reserveConfig(s)
	if err != nil {
		return hq.Enrolment{}, err
	}
	defer file.Release()
	client := hq.New(hq.Options{BaseURL: base, Version: s.build.Version, Logger: s.logger, Security: s.security(o)})
	defer client.Close()
	e, err := client.Enroll(ctx, code)
	if err != nil {
		return hq.Enrolment{}, err
	}
	err = file.Update(func(f *config.File) {
		f.Token, f.ServerID = config.NewSecret(e.Token), e.ServerID
	})
	if err != nil {
		return hq.Enrolment{}, fmt.Errorf("the code was redeemed, but the key could not be stored; create a new code at HQ: %w", err)
	}
	return e, nil
}

// reserveConfig checks that the configuration file can be written, and reserves disk space for
// it.
func reserveConfig(s *setup) (*config.Reservation, error) {
	file, err := config.Reserve(s.common.ConfigFile())
	if err != nil {
		return nil, fmt.Errorf(
			"%w; no code was used: check that this user may write to %s and that its disk has space, or choose "+
				"another directory with --data-dir",
			err, s.common.DataDir,
		)
	}
	return file, nil
}

// attempts is the maximum number of times that enrollAtTerminal prompts for a code.
const attempts = 3

// enrollAtTerminal prompts for a code and enrols with it. It fails if standard input is not a
// terminal.
func enrollAtTerminal(ctx context.Context, p Process, s *setup, o config.HQSettings) error {
	command := fmt.Sprintf("eds enroll --data-dir %s CODE", s.common.DataDir)
	if !isTerminal(p.Stdin) {
		return usagef("this server is not enrolled at HQ, and there is no terminal to prompt for the code; run: %s", command)
	}
	file, err := reserveConfig(s) // check this before the first prompt
	if err != nil {
		return err
	}
	file.Release()
	prompt := newPrompter(p)
	fmt.Fprintln(p.Stderr, "This server is not enrolled at HQ yet.")
	for range attempts {
		code, err := prompt.ask("The code that HQ shows: ")
		if errors.As(err, new(interrupted)) {
			return err
		}
		if err != nil {
			break
		}
		if code == "" {
			continue
		}
		e, err := enroll(ctx, s, o, code)
		if err == nil {
			fmt.Fprintf(p.Stderr, "Enrolled as server %s.\n", e.ServerID)
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		fmt.Fprintf(p.Stderr, "That did not work: %v\n", err)
	}
	return usagef("this server is not enrolled at HQ; create a new code there, and run: %s", command)
}

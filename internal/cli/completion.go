package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// newCompletion returns the command that prints completion scripts for shells.
func newCompletion(Process) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a shell completion script",
		Long: `Prints a script for bash, zsh, fish or powershell. With it, the shell
completes the commands and flags of eds when you press the tab key.`,
		Example: `  source <(eds completion bash)                                      # in ~/.bashrc
  eds completion zsh > "${fpath[1]}/_eds"
  eds completion fish > ~/.config/fish/completions/eds.fish
  eds completion powershell | Out-String | Invoke-Expression         # in $PROFILE`,
		ValidArgs: shells,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s needs the name of a shell: bash, zsh, fish or powershell", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, w := cmd.Root(), out(cmd)
			print, ok := map[string]func(io.Writer) error{
				"bash":       func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
				"zsh":        root.GenZshCompletion,
				"fish":       func(w io.Writer) error { return root.GenFishCompletion(w, true) },
				"powershell": root.GenPowerShellCompletionWithDesc,
			}[args[0]]
			if !ok {
				hint := "want bash, zsh, fish or powershell"
				if best := sink.Nearest(args[0], shells); best != "" {
					hint = fmt.Sprintf("did you mean %q?", best)
				}
				return usagef("%s: there is no script for %q; %s", cmd.CommandPath(), args[0], hint)
			}
			return print(w)
		},
	}
}

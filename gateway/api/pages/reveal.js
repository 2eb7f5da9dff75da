for(const button of document.querySelectorAll("[data-reveals]")){const input=document.getElementById(button.dataset.reveals);
const show=shown=>{input.type=shown?"text":"password";button.textContent=shown?button.dataset.hide:button.dataset.show};
button.hidden=false;button.onclick=()=>show(input.type=="password");input.form.addEventListener("submit",()=>show(false))}
